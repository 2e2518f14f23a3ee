"""The benchmark of the huggingface backend runs, and its table is whole; nothing of speed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from programs import ROOT

pytest.importorskip("torch", reason="the huggingface backend needs torch")
pytest.importorskip("transformers", reason="and transformers")

pytestmark = pytest.mark.slow
ROWS = {  # of every question, without those about servers that may not be installed
    "forward": {
        "1 stream, with prefill",
        "1 stream, decoding only",
        "8 streams, with prefill",
        "8 streams, decoding only",
    },
    "static": {"8 streams"},
    "serve": set(),
    "eighth": {"8th person"},
    "sampled": {"8 streams"},
    "abort": {
        "while decoding, median",
        "while decoding, worst",
        "while reading 2,400 tokens, median",
        "while reading 2,400 tokens, worst",
    },
    "turn": {"median of 8 slots"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Run all questions quickly; return what was printed and what was written."""
    file = tmp_path_factory.mktemp("benchmark") / "tables.json"
    program = ROOT / "benchmarks" / "huggingface.py"
    command = [sys.executable, str(program), "--quick", "--minutes", "5", "--json", str(file)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return printed, json.loads(file.read_text(encoding="utf-8"))


def test_every_question_has_its_table(run: tuple[str, dict[str, Any]]) -> None:
    """Of the tiny model, printed and written alike."""
    printed, found = run
    assert list(found) == ["tiny"]
    assert list(found["tiny"]) == list(ROWS)
    for name, table in found["tiny"].items():
        assert {row["what"] for row in table["rows"]} >= ROWS[name]
        assert f"{table['title']}\n" in printed
    assert "goals met, in " in printed.splitlines()[-1]


def test_every_row_compares_two_measured_figures(run: tuple[str, dict[str, Any]]) -> None:
    """And says whether the goal is met where there is one."""
    for table in run[1]["tiny"].values():
        for row in table["rows"]:
            assert row["ours"] >= 0
            assert row["value"] > 0
            assert float(row["ratio"]) == pytest.approx(row["ours"] / row["value"], 0.05, 0.01)
            assert (row["met"] is None) == (row["goal"] == "-")


def test_what_is_timed_is_the_librarys_own_answer(run: tuple[str, dict[str, Any]]) -> None:
    """Of eight people who ask at once, each gets what the bare loop makes of the prompt alone."""
    assert run[1]["tiny"]["forward"]["remarks"] == ["8 of 8 answers are the bare loop's own"]
