"""Eight concurrent clients of a GGUF; one aborts during its prefill: one file, offline."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kuwa_min.chat.catalog import NOT_ACCEPTED, STOPPED
from tests.support.load import load_scenario_8
from tests.support.load.machines import LOAD, HeavyFile, Machine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that models are made in."""
    return tmp_path_factory.mktemp("models") / "models"


@pytest.fixture(scope="module")
def library(heavy: Callable[[str], HeavyFile], models: Path) -> dict[str, Any]:
    """Make them; return what the library itself answers."""
    models.mkdir()
    said = heavy("llamacpp").run_python("-m", f"{LOAD}.llama_library", models)
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
    return Machine(tmp_path_factory.mktemp("another machine"), heavy("llamacpp").path, models)


@pytest.fixture(scope="module")
def seen(machine: Machine) -> dict[str, Any]:
    """Run the scenario there; return what its clients saw."""
    file, models = machine.place / "kuwa-llamacpp.pyz", machine.place / "models"
    return machine.run("load_scenario_8", file, models)


# -- eight clients


def test_all_eight_are_served_at_the_same_time(seen: dict[str, Any]) -> None:
    """Seven have text before any has ended; eight slots are busy, and the Kernel knows it."""
    assert seen["running"] == [True] * 8
    assert seen["during"]["status"]["busy_slots"] == 8
    assert seen["during"]["states"] == ["BUSY"] * 8


def test_the_six_who_stay_get_the_librarys_own_answers(
    seen: dict[str, Any], library: dict[str, Any]
) -> None:
    """Whole, whatever the others do."""
    assert seen["stayed"] == library["stayed"]
    assert list(map(len, seen["stayed"])) == [load_scenario_8.LENGTH] * 6
    assert len(set(seen["stayed"])) == 6


def test_one_aborts_while_the_prompt_is_read(seen: dict[str, Any], library: dict[str, Any]) -> None:
    """Before the first word: its reading has begun, and is not over."""
    assert seen["abort"] == [200, "Success"]
    assert seen["left"][0] == STOPPED
    assert seen["metrics"]["aborted_total"] == 1
    assert seen["metrics"]["input_tokens_total"] == library["read"]


def test_one_hangs_up(seen: dict[str, Any]) -> None:
    """In the middle of the answer; nothing failed."""
    assert 0 < len(seen["left"][1]) < load_scenario_8.LONGEST
    assert seen["metrics"]["disconnected_total"] == 1
    assert seen["metrics"]["failed_total"] == 0


def test_tokens_are_written_for_who_waits(seen: dict[str, Any]) -> None:
    """All of the whole answers; none for those who had left, but what was on its way."""
    whole = 8 * load_scenario_8.LENGTH + 2 * load_scenario_8.SHORT + len(seen["left"][1])
    assert whole <= seen["metrics"]["output_tokens_total"] < whole + load_scenario_8.LONGEST / 2


def test_all_slots_are_free_afterwards(seen: dict[str, Any]) -> None:
    """The executor and its Kernel agree."""
    assert seen["metrics"]["busy_slots"] == seen["afterwards"]["status"]["busy_slots"] == 0
    assert seen["afterwards"]["states"] == ["READY"] * 8
    assert seen["afterwards"]["health"] == 204


# -- one after the other


def test_a_chat_goes_on(seen: dict[str, Any], library: dict[str, Any]) -> None:
    """Its second turn is the library's, too."""
    assert seen["second"] == library["second"]


def test_what_was_read_is_not_read_again(seen: dict[str, Any], library: dict[str, Any]) -> None:
    """The second question about a long text costs what is new."""
    assert seen["book"] == library["book"]
    first, second = seen["book_tokens"]
    assert 0 < second < first / 10


def test_a_template_that_comes_with_a_chat_is_followed(
    seen: dict[str, Any], library: dict[str, Any]
) -> None:
    """The process that renders it gets its program out of the file."""
    assert seen["templated"] == library["templated"]
    assert seen["templated"] != seen["stayed"][0]


def test_status_says_what_loads(seen: dict[str, Any]) -> None:
    """And how far it is, as soon as it listens."""
    first, *_, last = seen["eight"]["loading"]
    assert (first["state"], first["registered"], first["model"]) == ("loading", False, {})
    task = last["progress"]["what"]  # the check may be too short to be seen
    is_loading = task.startswith("loading /") and task.endswith(f"/{load_scenario_8.MODEL}")
    assert is_loading or task == "checking the model"


def test_status_says_what_runs(seen: dict[str, Any]) -> None:
    """As the documents show it."""
    status = seen["afterwards"]["status"]
    assert (status["state"], status["slots"], status["registered"]) == ("ready", 8, True)
    assert (status["backend"], status["access_codes"]) == ("LlamacppExecutor", ["llamacpp"])
    model = dict(status["model"])
    assert "F32" in model.pop("description")
    assert model.pop("device").startswith("CPU")
    assert model.pop("memory_mb")["CPU"]["kv"] > 0
    assert model.pop("prompt_cache")["max_bytes"] > 0
    assert model == {
        "model": load_scenario_8.MODEL,
        "context": load_scenario_8.CONTEXT,
        "engine": "8 at once",
    }
    assert "progress" not in status


# -- templates that would run code


def test_a_template_runs_no_code(
    seen: dict[str, Any], library: dict[str, Any], machine: Machine
) -> None:
    """Neither a model's nor a bot's; chats that it does not spoil are answered."""
    assert seen["tricked"] == [NOT_ACCEPTED, library["good"]]
    assert re.fullmatch(r"\[The bot's template cannot be used: .*unsafe.*\]", seen["bot"])
    assert not list(machine.place.rglob("ran-code"))


# -- the machine


@pytest.mark.parametrize("run", ["eight", "evil"])
def test_it_ends_as_asked(seen: dict[str, Any], run: str) -> None:
    """With 0 after SIGTERM, and nothing went wrong on the way."""
    assert seen[run]["code"] == 0
    assert "Traceback" not in seen[run]["log"]
    assert ("ERROR" in seen[run]["log"]) == (run == "evil")  # the template refused a chat


def test_nothing_is_written_but_the_cache(seen: dict[str, Any], machine: Machine) -> None:
    """Neither by us nor by a library."""
    assert seen["eight"]["code"] == 0
    assert machine.left_overs() == []


REFUSED = {
    "mistyped": (r"--model_path .+/tini\.gguf does not exist: .+ near it: .+/tiny\.gguf", False),
    "text": (r"--model_path .+/text\.gguf is not a GGUF file: it begins with b'This'", False),
    "cut": (r"--model_path .+/cut\.gguf is truncated: [\d,]+ bytes .+ [\d,]+ are there", False),
    "transformers": (r"use `huggingface --model_path .+/transformers`", False),
    "uncached": (r"hf://owner/name\?tiny\.gguf .+ `hf download owner/name tiny\.gguf ", False),
    "gpu": (r"--ngl -1 asks for a GPU, but .+; --ngl 0 computes on the processor", True),
    "evil": (r"the chat template accepts no chat at all: .*unsafe", True),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_start_says_so_in_a_line(seen: dict[str, Any], fault: str) -> None:
    """Before llama.cpp is imported, unless it must be asked."""
    sentence, asks_library = REFUSED[fault]
    refusal = seen["refused"][fault]
    (line,) = refusal["said"]
    assert line.startswith("kuwa-llamacpp.pyz llamacpp: error: ")
    assert re.search(sentence, line)
    assert refusal["code"] == (1 if asks_library else 2)
    assert refusal["imported"] == asks_library
