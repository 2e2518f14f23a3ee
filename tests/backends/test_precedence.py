"""Which place of an option wins: the lists in the documents of the two engines, row by row."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from backends._local.executor import ModelExecutor
from backends.huggingface import HuggingfaceExecutor
from backends.llamacpp import LlamacppExecutor
from kuwa_min import Modelfile
from kuwa_min.options import generation_options
from tests.support.models import weight_files
from tests.support.models.tiny_models import F32, field, pack_gguf
from tests.support.programs import ROOT

DEFAULTS, FILE = "the defaults in `--help`", "a `-c` file"
CONFIG, HEAD = "the model's `generation_config.json`", "the model's `general.sampling.*`"
KWARGS, COMMAND = "`--generation_kwargs`", "options of the command line"
MODELFILE = "a Modelfile's `PARAMETER llm_...`"
HUGGINGFACE = (DEFAULTS, CONFIG, FILE, KWARGS, COMMAND, MODELFILE)
LLAMACPP = (DEFAULTS, HEAD, FILE, COMMAND, MODELFILE)
Options = dict[str, Any]
Places = dict[str, Options]  # what is given in each place


def pairs(rows: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return each row with each one below it."""
    return list(combinations(rows, 2))


@pytest.mark.parametrize(("name", "rows"), [("huggingface", HUGGINGFACE), ("llamacpp", LLAMACPP)])
def test_the_document_has_these_rows(name: str, rows: tuple[str, ...]) -> None:
    """In this order."""
    text = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"(?m)^\d+\. (.*)$", text)) == rows


Resolve = Callable[[Places], Options]


def started(
    kind: type[ModelExecutor], monkeypatch: pytest.MonkeyPatch, *options: object
) -> ModelExecutor:
    """Return an executor with its settings; the model is not loaded."""
    monkeypatch.setattr(sys, "argv", ["kuwa", *map(str, options)])
    executor = kind()
    executor.timeout = None
    executor.settings = executor.read_settings()
    return executor


def words(places: Places, folder: Path) -> list[object]:
    """Return the words of a command line that give what stands in a -c file, and those of its."""
    file = folder / "c.json"
    file.write_text(json.dumps(places.get(FILE, {})), encoding="utf-8")
    given = places.get(COMMAND, {})
    return ["-c", file, *(word for name in given for word in (f"--{name}", given[name]))]


def asked(executor: ModelExecutor, places: Places) -> Options:
    """Return the options of a request whose Modelfile gives these."""
    given = places.get(MODELFILE, {})
    entries = [{"name": "parameter", "args": f"llm_{name} {given[name]}"} for name in given]
    parameters = Modelfile.from_json(json.dumps(entries)).parameters
    return executor.request_options(generation_options.asked_by(parameters, executor.table))


@pytest.fixture
def huggingface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Return what the options of a request are when places give these: a function."""

    def resolve(places: Places) -> Options:
        folder = weight_files.folder(tmp_path / "model")
        own = json.dumps(places.get(CONFIG, {}))
        (folder / "generation_config.json").write_text(own, encoding="utf-8")
        kwargs = [f"{name}={value}" for name, value in places.get(KWARGS, {}).items()]
        line = (*words(places, tmp_path), "--generation_kwargs", *kwargs)
        executor = started(HuggingfaceExecutor, monkeypatch, "--model_path", folder, *line)
        return asked(executor, places)

    return resolve


@pytest.fixture
def llamacpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Return the same for a GGUF file."""
    names = {"temperature": "temp", "repeat_penalty": "penalty_repeat"}

    def resolve(places: Places) -> Options:
        pytest.importorskip("numpy", reason="a GGUF file is made with it")
        import numpy

        fields = [
            field(f"general.sampling.{names.get(name, name)}", F32, value)
            for name, value in places.get(HEAD, {}).items()
        ]
        path = pack_gguf(tmp_path / "m.gguf", fields, {"weights": numpy.zeros(8)})
        line = words(places, tmp_path)
        return asked(started(LlamacppExecutor, monkeypatch, "--model_path", path, *line), places)

    return resolve


NUMBERS = {place: number / 10 for number, place in enumerate((*HUGGINGFACE, HEAD), 1)}


@pytest.mark.parametrize("name", ["repetition_penalty", "temperature", "top_p"])
@pytest.mark.parametrize(("lower", "upper"), pairs(HUGGINGFACE))
def test_a_later_row_of_huggingface_wins(
    huggingface: Resolve, lower: str, upper: str, name: str
) -> None:
    """Whichever of the others says nothing."""
    found = huggingface({place: {name: NUMBERS[place]} for place in (lower, upper)})
    assert found[name] == NUMBERS[upper]


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize(("lower", "upper"), pairs(HUGGINGFACE))
def test_a_later_row_says_whether_to_sample(
    huggingface: Resolve, lower: str, upper: str, says: bool
) -> None:
    """On and off."""
    found = huggingface({lower: {"do_sample": not says}, upper: {"do_sample": says}})
    assert found["do_sample"] is says


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repeat_penalty"])
@pytest.mark.parametrize(("lower", "upper"), pairs(LLAMACPP))
def test_a_later_row_of_llamacpp_wins(llamacpp: Resolve, lower: str, upper: str, name: str) -> None:
    """Whichever of the others says nothing."""
    found = llamacpp({place: {name: NUMBERS[place]} for place in (lower, upper)})
    assert found[name] == NUMBERS[upper]


@pytest.mark.parametrize(
    ("given", "samples"),
    [
        ({}, False),
        ({"temperature": 0.7}, True),
        ({"top_p": 0.9}, True),
        ({"top_k": 20}, True),
        ({"min_p": 0.1}, True),
        ({"typical_p": 0.9}, True),
        ({"temperature": 0.7, "do_sample": "false"}, False),
        ({"temperature": "none"}, False),
        ({"repetition_penalty": 1.2}, False),
        ({"seed": 3}, False),
        ({"do_sample": "true"}, True),
    ],
)
def test_a_bot_that_says_how_to_sample_is_sampled(
    huggingface: Resolve, given: Options, samples: bool
) -> None:
    """Unless it says that it is not; what only changes the likeliest token turns nothing on."""
    assert huggingface({MODELFILE: given})["do_sample"] is samples


def test_stop_words_of_all_rows_add_up(huggingface: Resolve, llamacpp: Resolve) -> None:
    """None takes one away."""
    places = {place: {"stop": [place[:3]]} for place in (CONFIG, FILE)}
    places[MODELFILE] = {"stop": "bot"}
    assert huggingface(places)["stop"] == ["the", "a `", "bot"]
    assert llamacpp({FILE: {"stop": ["x"]}, MODELFILE: {"stop": "bot"}})["stop"] == ["x", "bot"]
