"""Four concurrent clients, of which one aborts and one disconnects: one file, offline."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.load import load_scenario_4
from tests.support.load.machines import LOAD, HeavyFile, Machine

pytestmark = pytest.mark.slow
CONTEXT = 16_384


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that models and a picture are made in."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def library(heavy: Callable[[str], HeavyFile], models: Path) -> dict[str, Any]:
    """Make them; return what the library itself answers."""
    said = heavy("huggingface").run_python("-m", f"{LOAD}.transformers_library", models, CONTEXT)
    answers: dict[str, Any] = json.loads(said.splitlines()[-1])
    return answers


@pytest.fixture(scope="module")
def machine(
    heavy: Callable[[str], HeavyFile],
    library: dict[str, Any],
    models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Machine:
    """Carry them and the file to another machine."""
    folder = tmp_path_factory.mktemp("another machine")
    return Machine(folder, heavy("huggingface").path, *sorted(models.iterdir()))


@pytest.fixture(scope="module")
def seen(machine: Machine) -> dict[str, Any]:
    """Run the scenario there; return what its clients saw."""
    file, models = machine.place / "kuwa-huggingface.pyz", ("tiny", "seer")
    return machine.run("load_scenario_4", file, *(machine.place / one for one in models))


# -- four clients


def test_all_four_are_answered_at_the_same_time(seen: dict[str, Any]) -> None:
    """Each has text before any has ended; four slots are busy, and the Kernel knows it."""
    assert seen["running"] == [True] * 4
    assert seen["during"]["status"]["busy_slots"] == 4
    assert seen["during"]["states"] == ["BUSY"] * 4


def test_those_who_stay_get_the_librarys_own_answers(
    seen: dict[str, Any], library: dict[str, Any]
) -> None:
    """Whole, whatever the others do."""
    assert seen["stayed"] == library["stayed"]
    assert min(map(len, seen["stayed"])) == load_scenario_4.LENGTH


def test_those_who_abort_or_leave_end_their_answers(seen: dict[str, Any]) -> None:
    """Long before they are whole, each in its own way."""
    assert seen["abort"] == [200, "Success"]
    assert min(map(len, seen["left"])) > 0
    assert max(map(len, seen["left"])) < load_scenario_4.LONGEST
    assert seen["metrics"]["aborted_total"] == 1
    assert seen["metrics"]["disconnected_total"] == 1
    assert seen["metrics"]["failed_total"] == 0


def test_all_slots_are_free_afterwards(seen: dict[str, Any]) -> None:
    """The executor and its Kernel agree."""
    assert seen["metrics"]["busy_slots"] == seen["afterwards"]["status"]["busy_slots"] == 0
    assert seen["afterwards"]["states"] == ["READY"] * 4
    assert seen["afterwards"]["health"] == 204


def test_a_chat_goes_on(seen: dict[str, Any], library: dict[str, Any]) -> None:
    """Its second turn is the library's, too."""
    assert seen["second"] == library["second"]


def test_a_template_that_comes_with_a_chat_is_followed(
    seen: dict[str, Any], library: dict[str, Any]
) -> None:
    """The process that renders it gets its program out of the file."""
    assert seen["templated"] == library["templated"]
    assert seen["templated"] != seen["stayed"][0]


def test_status_says_what_runs(seen: dict[str, Any]) -> None:
    """As the documents show it."""
    status = seen["afterwards"]["status"]
    assert (status["state"], status["slots"], status["registered"]) == ("ready", 4, True)
    assert (status["backend"], status["access_codes"]) == ("HuggingfaceExecutor", ["huggingface"])
    model = dict(status["model"])
    assert model.pop("prompt_cache")["max_bytes"] > 0
    assert model == {
        "model": "Qwen2ForCausalLM",
        "dtype": "float32",
        "device": "cpu",
        "context": CONTEXT,
        "engine": "4 at once",
    }
    assert "progress" not in status


def test_tokens_are_counted(seen: dict[str, Any], library: dict[str, Any]) -> None:
    """All that were read and written; none for those who had left, but what was on its way."""
    whole = 4 * load_scenario_4.LENGTH + len("".join(seen["left"]))
    assert seen["metrics"]["input_tokens_total"] == library["read"]
    assert whole <= seen["metrics"]["output_tokens_total"] < whole + load_scenario_4.LONGEST / 2


# -- one who sends a picture


def test_a_picture_is_seen(seen: dict[str, Any], library: dict[str, Any]) -> None:
    """Sent inside the message: there is no internet."""
    assert seen["looked"] == library["looked"]


# -- the machine


@pytest.mark.parametrize("run", ["four", "vision"])
def test_it_ends_as_asked(seen: dict[str, Any], run: str) -> None:
    """With 0 after SIGTERM, and nothing went wrong on the way."""
    assert seen[run]["code"] == 0
    assert "Traceback" not in seen[run]["log"]
    assert "ERROR" not in seen[run]["log"]


def test_nothing_is_written_but_the_cache(seen: dict[str, Any], machine: Machine) -> None:
    """Neither by us nor by a library."""
    assert seen["four"]["code"] == 0
    assert machine.left_overs() == []


REFUSED = {
    "mistyped": (r"--model_path .+/tin does not exist: .+ near it: .+/tiny", False),
    "gguf": (r"it holds GGUF files; use `llamacpp --model_path gguf/tiny\.Q4_K_M\.gguf`", False),
    "cuda": (r"--device cuda asks for a GPU, but torch \S+ finds none that it can use", True),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_start_says_so_in_a_line(seen: dict[str, Any], fault: str) -> None:
    """Before torch is imported, which takes seconds, unless torch must be asked."""
    sentence, asks_torch = REFUSED[fault]
    refusal = seen["refused"][fault]
    (line,) = refusal["said"]
    assert line.startswith("kuwa-huggingface.pyz huggingface: error: ")
    assert re.search(sentence, line)
    assert refusal["code"] == (1 if asks_torch else 2)
    assert refusal["imported"] == asks_torch
