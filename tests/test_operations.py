"""The dashboard and the alert rules: what they name is what /metrics gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from backends._local.prompt_cache.metrics import METRICS as CACHE_METRICS
from backends.llamacpp import PICTURE_METRICS
from tests.kuwa_min.serving.test_routes import echo, running
from tests.support.programs import ROOT, fetch

PAGE = ROOT / "docs" / "operations.md"
DASHBOARD = ROOT / "docs" / "operations" / "grafana-dashboard.json"
ALERTS = ROOT / "docs" / "operations" / "alerts.yml"
PREFIX = "executor_framework_"
OF_PROMETHEUS = {"up", "instance", "job", "le"}
FUNCTIONS = {"sum", "max", "count", "rate", "increase", "histogram_quantile"}
VARIABLES = ("$executor_name", "$instance", "$__rate_interval", "${datasource}")
NAME = r"[A-Za-z_]\w*"
OF_COUNTER = re.compile(rf"\b(?:rate|increase)\(({NAME})(?:{{[^}}]*}})?(\[[\w$]+\])?")
SELECTOR = re.compile(rf"({NAME})\s*(?:=~|!~|!=|=)\s*\"")


@pytest.fixture(scope="module")
def families() -> list[Metric]:
    """Return what an executor's /metrics says, with the metrics of the model backends."""
    with running(echo) as one:
        for prefix, table in (("prompt_cache", CACHE_METRICS), ("pictures", PICTURE_METRICS)):
            for name, text in table.items():
                one.metrics.add(f"{prefix}_{name}", text, lambda: 0)
        return list(text_string_to_metric_families(fetch(f"{one.base}/metrics")[1]))


def alerts() -> list[dict[str, Any]]:
    """Return the alert rules."""
    groups = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return found


def queries() -> Iterator[str]:
    """Yield every expression, and the queries of the dashboard's variables."""
    yield from (rule["expr"] for rule in alerts())
    yield from (target["expr"] for panel in panels() for target in panel.get("targets", []))
    for variable in json.loads(DASHBOARD.read_text("utf-8"))["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"].removeprefix("label_values(").removesuffix(")")


def words(query: str) -> set[str]:
    """Return the names in a query, without functions, texts, ranges and keywords."""
    bare = re.sub(r"\"[^\"]*\"|\[[^\]]*\]", " ", query)
    return set(re.findall(rf"\b{NAME}", bare)) - FUNCTIONS - {"by"}


def unknown(query: str, families: list[Metric]) -> set[str]:
    """Return the names in a query that are of no sample and of no label of /metrics."""
    samples = [sample for family in families for sample in family.samples]
    labels = {label for sample in samples for label in sample.labels}
    return words(query) - {sample.name for sample in samples} - labels - OF_PROMETHEUS


def test_every_name_in_a_query_is_one_of_metrics(families: list[Metric]) -> None:
    """Samples and labels; and the check finds a wrong one."""
    assert len(list(queries())) > 40
    assert {query: names for query in queries() if (names := unknown(query, families))} == {}
    assert unknown("sum by (oops) (rate(executor_framework_oops_total[5m]))", families) == {
        "oops",
        "executor_framework_oops_total",
    }


def test_every_label_that_is_selected_is_of_that_sample(families: list[Metric]) -> None:
    """A selector by another one finds nothing, in silence."""
    labels = {one.name: set(one.labels) for family in families for one in family.samples}
    for query in queries():
        for name, selectors in re.findall(rf"({NAME}){{([^}}]*)}}", query):
            known = labels.get(name, set()) | OF_PROMETHEUS
            assert set(SELECTOR.findall(selectors)) <= known, query


def test_rates_are_of_counters_over_a_range_and_all_else_has_none(families: list[Metric]) -> None:
    """The rate of a gauge is no error for Prometheus, but wrong."""
    kinds = {sample.name: family.type for family in families for sample in family.samples}
    for query in queries():
        assert query.count("(") == query.count(")"), query
        rates = OF_COUNTER.findall(query)
        assert len(rates) == len(re.findall(r"\b(?:rate|increase)\(", query)), query
        assert all(kinds[name] in ("counter", "histogram") for name, _ in rates), query
        assert query.count("[") == sum(bool(span) for _, span in rates) == len(rates), query
        if "histogram_quantile" in query:
            assert re.search(r"by \([^)]*\ble\b[^)]*\).*_bucket", query), query


def test_every_metric_but_details_is_on_the_dashboard(families: list[Metric]) -> None:
    """What is left out is in others already."""
    shown = " ".join(query for query in queries())
    details = {"state", "prompt_cache_entries", "pictures_entries"}
    missing = {one.name for one in families if not re.search(rf"\b{one.name}", shown)}
    assert missing == {PREFIX + name for name in details}


def test_the_dashboard_is_one_that_grafana_shows() -> None:
    """Ids are unique, panels do not overlap, variables exist, the data source can be chosen."""
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    places: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & places, panel["title"]
        assert at["x"] + at["w"] <= 24
        places |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
    text = DASHBOARD.read_text("utf-8")
    assert {found for found in re.findall(r"\$\{?\w+\}?", text) if found != "$__all"} == set(
        VARIABLES
    )


def test_every_alert_says_what_it_is_and_the_page_says_what_to_do() -> None:
    """Names, severities, sentences; the job's name is that of the page's example."""
    page = PAGE.read_text("utf-8")
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}
    named = set(re.findall(r"^\| `(Kuwa\w+)`", page, re.MULTILINE))
    assert named == {rule["alert"] for rule in alerts()}
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    config = yaml.safe_load(example)
    assert f'job="{config["scrape_configs"][0]["job_name"]}"' in alerts()[0]["expr"]
    assert config["rule_files"] == [ALERTS.name]


def test_the_page_explains_every_metric(families: list[Metric]) -> None:
    """By the names without their prefix, and none that is gone."""
    rows = re.search(r"## Metrics\n(.*)", PAGE.read_text("utf-8"), re.DOTALL)
    assert rows is not None
    named = {
        name
        for line in rows[1].splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    given = {
        family.name.removeprefix(PREFIX) + ("_total" if family.type == "counter" else "")
        for family in families
    }
    assert named == given
