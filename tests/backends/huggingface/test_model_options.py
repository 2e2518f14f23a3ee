"""What a model's own files say of generating: taken, refused at the start, or named in the log."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.huggingface import OPTIONS, HuggingfaceExecutor, model_options
from backends.huggingface.options import PASSED, generate_options
from kuwa_min.errors import UsageError
from tests.support.models import tiny_models, weight_files
from tests.support.saved_as import SAVED_AS

BART = {  # as bart-large-cnn has it, but for the numbers
    "num_beams": 4,
    "length_penalty": 2.0,
    "early_stopping": True,
    "no_repeat_ngram_size": 3,
    "min_length": 5,
    "max_length": 21,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "decoder_start_token_id": 1,
    "eos_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 0,
}
NAMED = {  # fields of the library that change the text, and that generate() alone has no more
    "penalty_alpha",
    "dola_layers",
    "num_beam_groups",
    "diversity_penalty",
    "constraints",
    "force_words_ids",
    "token_healing",
    "num_return_sequences",
    "assistant_ensemble_weight",
    "speculation_type",
}
Says = Callable[..., Path]
Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def says(tmp_path: Path) -> Says:
    """Make a folder whose generation_config.json, and config.json, say this."""

    def make(own: dict[str, Any] | None, **config: Any) -> Path:
        files = {"config.json": json.dumps({"model_type": "qwen2", **config}).encode()}
        if own is not None:
            files["generation_config.json"] = json.dumps(own).encode()
        return weight_files.folder(
            tmp_path / "model", {"model.safetensors": weight_files.safetensors(), **files}
        )

    return make


def start(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: object) -> HuggingfaceExecutor:
    """Return an executor with its settings, without loading the model."""
    monkeypatch.setattr(sys, "argv", ["kuwa", "--model_path", str(folder), *map(str, options)])
    executor = HuggingfaceExecutor()
    executor.timeout = None
    executor.settings = executor.read_settings()
    return executor


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings that a folder and options lead to: a function."""
    return lambda *options: dict(start(monkeypatch, *options).settings)


@pytest.mark.parametrize(
    ("own", "right"),
    [
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1},
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1},
        ),
        ({"do_sample": "true", "temperature": "0.7"}, {"do_sample": True, "temperature": 0.7}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"top_k": -1, "top_p": 0}, {"top_k": -1, "top_p": 0.0}),
        ({"top_p": None, "do_sample": None}, {"top_p": None, "do_sample": False}),
        ({"max_new_tokens": "5"}, {"max_new_tokens": 5}),
        ({"stop_strings": "END"}, {"stop": ["END"]}),
        ({"stop_strings": ["a", "b"], "stop": None}, {"stop": ["a", "b"]}),
        ({"max_length": 20}, {"max_new_tokens": 4096}),  # it would count the prompt
        ({"forced_bos_token_id": 0}, {"forced_bos_token_id": 0}),  # a token, not false
        ({"suppress_tokens": "[1, 2]"}, {"suppress_tokens": [1, 2]}),
        ({"suppress_tokens": [-1, 7]}, {"suppress_tokens": [7]}),
        ({"num_beams": "3", "length_penalty": 2}, {"num_beams": 3, "length_penalty": 2.0}),
    ],
)
def test_what_the_file_says_holds(
    says: Says, settings: Settings, own: dict[str, Any], right: dict[str, Any]
) -> None:
    """Also numbers as text, and null."""
    found = settings(says(own))
    assert {name: found[name] for name in right} == right


@pytest.mark.parametrize(
    "own",
    [
        {
            "bad_words_ids": [],
            "suppress_tokens": [],
            "sequence_bias": {},
            "forced_eos_token_id": [],
        },
        {"num_beams": 1, "min_length": 0, "length_penalty": 1.0, "early_stopping": False},
        {"suppress_tokens": [-1], "forced_bos_token_id": False, "guidance_scale": None},
    ],
)
def test_what_changes_nothing_costs_no_batch(
    says: Says, settings: Settings, own: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Empty lists, which the library refuses in each chat, and its defaults."""
    assert generate_options(settings(says(own))) == {}
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (("num_beams=1",), {"suppress_tokens": [3]}),
        (("num_beams=1", "suppress_tokens=[]"), {}),
        (("suppress_tokens=false",), {"num_beams": 2}),
    ],
)
def test_an_operator_can_turn_it_off(
    says: Says, settings: Settings, options: tuple[str, ...], left: dict[str, Any]
) -> None:
    """A value that changes nothing wins over the model's."""
    folder = says({"num_beams": 2, "suppress_tokens": [3]})
    assert generate_options(settings(folder, "--generation_kwargs", *options)) == left


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"temperature": "hot"}, "temperature must be a number, not 'hot'"),
        ({"repetition_penalty": 0}, "repetition_penalty must be at least 0.01, not 0"),
        ({"do_sample": "maybe"}, "do_sample must be true or false, not 'maybe'"),
        ({"num_beams": 0}, "num_beams must be at least 1, not 0"),
        ({"suppress_tokens": "all"}, "suppress_tokens must be a token's number or a list of them"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be a token's number or a list of them"),
        ({"eos_token_id": [[2]]}, "eos_token_id must be a token's number or a list of them"),
        ({"stop_strings": {"a": 1}}, "stop must be a text or a list of texts"),
    ],
)
def test_what_cannot_be_meant_ends_the_start(
    says: Says, settings: Settings, own: dict[str, Any], words: str
) -> None:
    """In a line that names the file."""
    folder = says(own)
    with pytest.raises(UsageError) as refused:
        settings(folder)
    assert str(refused.value).startswith(f"{folder}: generation_config.json: {words}")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b'{"eos_token_id": [2,\n', b"", b"[]"])
def test_a_damaged_file_ends_the_start(says: Says, settings: Settings, content: bytes) -> None:
    """The library would forget it without a word, and the answers would have no end."""
    folder = says({})
    (folder / "generation_config.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"loaded: generation_config\.json is no JSON object"):
        settings(folder)


@pytest.mark.parametrize("encode", SAVED_AS.values(), ids=SAVED_AS)
def test_a_file_saved_on_windows_counts(says: Says, settings: Settings, encode: Any) -> None:
    """With a byte order mark, in UTF-16."""
    folder = says({})
    (folder / "generation_config.json").write_bytes(encode('{\n"top_k": 7\n}'))
    assert settings(folder)["top_k"] == 7


@pytest.mark.parametrize(
    ("own", "ids"),
    [
        ({"eos_token_id": "2"}, {"eos_token_id": 2}),
        ({"eos_token_id": ["2", 5.0]}, {"eos_token_id": [2, 5]}),
        ({"eos_token_id": -1, "pad_token_id": None, "bos_token_id": False}, {}),
        ({"pad_token_id": -1, "bos_token_id": [1]}, {"bos_token_id": 1}),
        ({"decoder_start_token_id": 0, "top_k": 3}, {"decoder_start_token_id": 0}),
    ],
)
def test_token_ids_reach_the_library_as_numbers(
    says: Says, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any], ids: dict[str, Any]
) -> None:
    """And as lists of numbers; the rest does not reach it by this way."""
    executor = start(monkeypatch, says(own))
    assert executor.load_options["special_ids"] == ids
    assert not generate_options(executor.settings)


def test_what_has_no_effect_is_named_once(
    says: Says, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """But not what changes no text, nor what is off."""
    quiet = {
        "use_cache": True,
        "transformers_version": "4",
        "num_beam_groups": 1,
        "penalty_alpha": 0,
    }
    settings(says({**quiet, "dola_layers": "high", "chat_format": "raw", "pad_token_id": 0}))
    (warning,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert warning.getMessage().endswith("without effect here: chat_format, dola_layers")


def test_what_it_sets_is_in_the_log(
    says: Says, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator sees why answers are drawn."""
    caplog.set_level(logging.INFO)
    settings(says({"do_sample": True, "temperature": 0.6, "suppress_tokens": [1, 2]}))
    assert "generation_config.json sets do_sample=True, temperature=0.6, suppress_tokens" in (
        caplog.text
    )


def test_an_older_model_says_it_in_its_config(says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    """As BART does; the lengths of encoder-decoders count the answer alone."""
    folder = says(None, is_encoder_decoder=True, vocab_size=5, **BART)
    executor = start(monkeypatch, folder)
    assert generate_options(executor.settings) == {
        name: BART[name]
        for name in (
            "num_beams",
            "length_penalty",
            "early_stopping",
            "min_length",
            "forced_bos_token_id",
            "forced_eos_token_id",
        )
    }
    assert executor.settings["no_repeat_ngram_size"] == 3
    assert executor.settings["max_new_tokens"] == 20
    ids = ("decoder_start_token_id", "eos_token_id", "bos_token_id", "pad_token_id")
    assert executor.load_options["special_ids"] == {name: BART[name] for name in ids}


def test_the_config_of_a_decoder_may_be_inside(says: Says, settings: Settings) -> None:
    """As that of models that see; and the file of its own wins over both."""
    folder = says(None, text_config={"top_k": 3, "top_p": 0.3}, top_p=0.5)
    assert [settings(folder)[name] for name in ("top_k", "top_p")] == [3, 0.5]
    (folder / "generation_config.json").write_text("{}", encoding="utf-8")
    assert [settings(folder)[name] for name in ("top_k", "top_p")] == [None, None]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the library's own
def test_every_field_of_the_library_is_known() -> None:
    """So that a new one is looked at."""
    transformers = pytest.importorskip("transformers", reason="its fields are compared")
    ours = {name for option in OPTIONS for name in (option.name, *option.aliases)}
    known = ours | PASSED | model_options.NEUTRAL | {*model_options.SPECIAL} | NAMED
    assert vars(transformers.GenerationConfig()).keys() - known == set()


# -- with the model


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", ["bart", "t5"])
@pytest.mark.parametrize("place", ["generation_config.json", "-c", "config.json"])
def test_beams_of_an_encoder_decoder(
    load: Any, tmp_path: Path, kind: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever they are asked for, as the library generates them."""
    from tests.support import local_chats
    from tests.support.models.tiny_architectures import Library, write_folder

    folder = write_folder(tmp_path / kind, kind)
    beams = {"num_beams": 3, "length_penalty": 2.0, "no_repeat_ngram_size": 2, "min_length": 4}
    right = Library(folder).answer("Hello", max_new_tokens=12, **beams)
    assert right != Library(folder).answer("Hello", max_new_tokens=12)
    options: tuple[object, ...] = ("--max_new_tokens", 12)
    if place == "-c":
        (tmp_path / "c.json").write_text(json.dumps(beams), encoding="utf-8")
        options += ("-c", tmp_path / "c.json")
    else:
        own = folder / "generation_config.json"
        stated = json.loads(own.read_text(encoding="utf-8")) | beams
        if place == "config.json":
            own.unlink()
            stated |= json.loads((folder / place).read_text(encoding="utf-8"))
        (folder / place).write_text(json.dumps(stated), encoding="utf-8")
    executor = load(HuggingfaceExecutor, "--model_path", folder, *options).executor
    assert "by generate(): only generate() implements num_beams" in caplog.text
    assert local_chats.ask(executor, "Hello")[0] == right


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_model_that_samples_is_sampled(load: Any, tmp_path: Path) -> None:
    """In a batch; --do_sample false has the likeliest tokens back."""
    folder = tiny_models.write_folder(tmp_path / "m")
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "top_k": 20, "eos_token_id": "2", "bad_words_ids": []}'
    )
    options = ("--model_path", folder, "--max_new_tokens", 24)
    seeded = load(HuggingfaceExecutor, *options, "--seed", 5)
    drawn, again = ("".join(seeded.pieces("x")) for _ in range(2))
    greedy = "".join(load(HuggingfaceExecutor, *options, "--do_sample", "false").pieces("x"))
    assert drawn == again != greedy
    assert "".join(seeded.pieces("x", parameter="llm_temperature 0")) == greedy
    assert seeded.executor.model.eos_token_ids == {2}
