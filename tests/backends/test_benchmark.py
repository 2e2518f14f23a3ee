"""The benchmarks of the model backends run, and their tables are whole; nothing of speed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.programs import ROOT

pytestmark = pytest.mark.slow
RATES = {
    "1 stream, with prefill",
    "1 stream, decoding only",
    "8 streams, with prefill",
    "8 streams, decoding only",
}
OURS = {  # of the questions that both are asked
    "eighth": {"8th comes later", "8 at once"},
    "sampled": {"8 streams"},
    "abort": {
        "while decoding, median",
        "while decoding, worst",
        "while reading 2,400 tokens, median",
        "while reading 2,400 tokens, worst",
    },
    "turn": {"median of 8 slots", "worst slot"},
}
BARE = {"huggingface": "forward", "llamacpp": "decode"}  # the question about the bare loop
ROWS = {  # of every question, without those about servers that may not be installed
    "huggingface": {"forward": RATES, "static": {"8 streams"}, "serve": set(), **OURS},
    "llamacpp": {
        "decode": RATES,
        "batch": {"8 streams"},
        "server": set(),
        "long": {"1 stream"},
        **OURS,
    },
}
LIBRARIES = {"huggingface": ("torch", "transformers"), "llamacpp": ("llama_cpp",)}


class Run(NamedTuple):
    """A backend, what its benchmark printed, and the tables that it wrote."""

    backend: str
    printed: str
    tables: dict[str, Any]


@pytest.fixture(scope="module", params=ROWS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Ask all questions about a backend quickly."""
    for library in LIBRARIES[request.param]:
        if not find_spec(library):
            pytest.skip(f"the {request.param} backend needs {library}")
    file = tmp_path_factory.mktemp("benchmark") / "tables.json"
    program = ROOT / "benchmarks" / f"{request.param}.py"
    command = [sys.executable, str(program), "--quick", "--minutes", "5", "--json", str(file)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(file.read_text(encoding="utf-8"))
    assert list(found) == ["tiny"]
    return Run(request.param, printed, found["tiny"])


def test_the_benchmark_of_graphics_cards_is_tried_without_one(tmp_path: Path) -> None:
    """Answers of both backends are those of the loops that they are compared with."""
    if not all(find_spec(library) for names in LIBRARIES.values() for library in names):
        pytest.skip("needs the libraries of both backends")
    file = tmp_path / "tables.json"
    options = ("--device", "cpu", "--size", "tiny", "--quick", "--json", str(file))
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *options]
    subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert list(found) == list(LIBRARIES)
    for tables in found.values():
        assert list(tables["tiny"]) == ["decode", "sampled"]
        assert {row["what"] for row in tables["tiny"]["decode"]["rows"]} == RATES
        same, status = tables["tiny"]["decode"]["remarks"]
        assert same == "8 of 8 answers are that loop's own"
        assert "cpu" in status.lower()


def test_the_benchmark_against_the_server_of_llama_cpp_is_tried(tmp_path: Path) -> None:
    """One round with a real model and short prompts."""
    if not (find_spec("llama_cpp") and find_spec("xllamacpp")):
        pytest.skip("needs llama-cpp-python and xllamacpp")
    file = tmp_path / "tables.json"
    options = ("--model", "smollm2", "--threads", "1", "--words", "50", "--minutes", "0.1")
    command = [sys.executable, str(ROOT / "benchmarks" / "real_models.py"), *options]
    subprocess.run([*command, "--json", str(file)], stdout=subprocess.PIPE, check=True)
    (table,) = json.loads(file.read_text(encoding="utf-8")).values()
    assert len(table["rows"]) == 10
    assert all(row["ours"] > 0 and row["value"] > 0 for row in table["rows"])


def test_every_question_has_its_table(run: Run) -> None:
    """Of the tiny model, printed and written alike."""
    rows = ROWS[run.backend]
    assert list(run.tables) == list(rows)
    for name, table in run.tables.items():
        assert {row["what"] for row in table["rows"]} >= rows[name]
        assert f"{table['title']}\n" in run.printed
    assert "goals met, in " in run.printed.splitlines()[-1]


def test_every_row_compares_two_measured_figures(run: Run) -> None:
    """And says whether the goal is met where there is one."""
    for table in run.tables.values():
        for row in table["rows"]:
            assert row["ours"] >= 0
            assert row["value"] > 0
            assert float(row["ratio"]) == pytest.approx(row["ours"] / row["value"], 0.05, 0.01)
            assert (row["met"] is None) == (row["goal"] == "-")


def test_what_is_timed_is_the_librarys_own_answer(run: Run) -> None:
    """Each of eight concurrent clients gets what the bare loop makes of its prompt alone."""
    remarks = run.tables[BARE[run.backend]]["remarks"]
    assert remarks == ["8 of 8 answers are the bare loop's own"]
