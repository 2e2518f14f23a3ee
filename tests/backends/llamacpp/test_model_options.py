"""What a GGUF file says of sampling: taken, refused at the start, or named in the log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from backends.llamacpp import OPTIONS, LlamacppExecutor, model_options
from tests.support import local_chats
from tests.support.models import tiny_models
from tests.support.models.tiny_models import F32, I32, STRING, field

PREFIX = "general.sampling."
ALL = {  # the names of llama.cpp's enum llama_model_meta_key
    *model_options.NAMES,
    *("sequence", "xtc_probability", "xtc_threshold", "penalty_last_n"),
}


def test_names_are_those_of_options() -> None:
    """Of the table."""
    assert {*model_options.NAMES.values()} <= {option.name for option in OPTIONS}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the library's own
def test_names_are_llama_cpps() -> None:
    """All that this version knows."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="its names are compared")
    names = [llama_cpp.llama_model_meta_key_str(key) for key in range(len(ALL))]
    assert {name.decode() for name in names if name} == {PREFIX + name for name in ALL}


def test_what_a_file_says_is_taken_and_the_rest_named(caplog: pytest.LogCaptureFixture) -> None:
    """Once; other fields are not looked at."""
    caplog.set_level(logging.INFO)
    given = {"temp": 0.6, "top_k": 20, "sequence": "kfyp", "xtc_probability": 0.1, "new": 1}
    fields = {PREFIX + name: value for name, value in given.items()}
    place, values = model_options.read({"general.architecture": "llama", **fields}, "m.gguf")
    assert place == "m.gguf: general.sampling.*"
    assert values == {"temperature": 0.6, "top_k": 20}
    assert "m.gguf sets temperature=0.6, top_k=20" in caplog.text
    assert caplog.text.count("without effect here: sequence, xtc_probability, new") == 1


def test_what_changes_nothing_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    """Values with which llama.cpp does the same without them."""
    given = {"penalty_last_n": 64, "xtc_probability": 0.0, "xtc_threshold": 0.1}
    assert model_options.read({PREFIX + name: given[name] for name in given}, "m.gguf")[1] == {}
    assert not caplog.records


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_model_is_sampled_as_its_file_says(load: Any, tmp_path: Path) -> None:
    """Numbers of any type; a bot says otherwise."""
    pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
    fields = [
        field(f"{PREFIX}temp", F32, 0.0),
        field(f"{PREFIX}top_k", I32, -1),
        field(f"{PREFIX}penalty_repeat", F32, 1.5),
        field(f"{PREFIX}sequence", STRING, "kfyp"),
    ]
    told = tiny_models.write_gguf(tmp_path / "told.gguf", fields=fields)
    plain = tiny_models.write_gguf(tmp_path / "plain.gguf")
    exact = ("--threads", 1, "--cache_type", "f32", "--max_tokens", 24)
    executor = load(LlamacppExecutor, "--model_path", told, *exact).executor
    greedy = ("--temperature", 0, "--repeat_penalty", 1.5)
    right = load(LlamacppExecutor, "--model_path", plain, *exact, *greedy).executor
    assert local_chats.ask(executor, "x")[0] == local_chats.ask(right, "x")[0]
    assert executor.settings["top_k"] == -1
    asked = {"parameter": "temperature 2", "kuwaparam": "llm_seed 1"}
    assert local_chats.ask(executor, "x", **asked)[0] != local_chats.ask(right, "x")[0]
