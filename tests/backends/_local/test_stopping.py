"""Where answers stop: at special tokens, as text or by number, on every road of both engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backends._local.executor import ModelExecutor
from kuwa_min.errors import UsageError
from kuwa_min.options import generation_options
from tests.conftest import MakeOnce
from tests.support import local_chats
from tests.support.models import tiny_models
from tests.support.models.tiny_models import SPECIAL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
TOKEN = 1
MARK = SPECIAL[TOKEN]  # a special token that ends no answer by itself
COUNT = 24  # tokens of an answer


class Road(NamedTuple):
    """An engine whose model says MARK in the midst of an answer, and the text before it."""

    executor: ModelExecutor
    talker: Any
    before: str
    more: dict[str, str]  # commands of a Modelfile that make it do so

    def ask(self, parameter: str = "llm_stop never") -> str:
        """Return the answer with a PARAMETER of a Modelfile."""
        return local_chats.ask(self.executor, "Hello", **self.commands(parameter))[0]

    def commands(self, parameter: str) -> dict[str, str]:
        """Return the commands of a Modelfile with one PARAMETER."""
        return {**self.more, "kuwaparam": parameter}


@pytest.fixture(params=["batched", "generate", "beams", "llamacpp"])
def road(request: Any, load: Any, make_once: MakeOnce) -> Road:
    """Load a model for each road."""
    if request.param == "llamacpp":
        return _llama(load, make_once("stopping-gguf", _write_gguf))
    pytest.importorskip("torch", reason="the huggingface backend needs torch")
    pytest.importorskip("transformers", reason="and transformers")
    more = {"batched": (), "generate": ("min_length=1",), "beams": ("num_beams=2",)}[request.param]
    return _transformers(load, make_once("stopping-folder", _write_folder), more)


def _write_gguf(folder: Path) -> None:
    tiny_models.write_gguf(folder / "tiny.gguf")


def _write_folder(folder: Path) -> None:
    """Write a model that says MARK where it would have said one of its letters."""
    import torch
    from transformers import AutoModelForCausalLM

    tiny_models.write_folder(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = model.lm_head.weight.clone()
    for letter in range(len(SPECIAL) + 32, len(SPECIAL) + 127):
        with torch.no_grad():
            model.lm_head.weight[TOKEN] = 1.2 * rows[letter]
        if _place(_library_answer(folder, model, max_new_tokens=8)) >= 3:
            model.save_pretrained(folder)
            return
    raise AssertionError("no letter will do")


def _place(tokens: list[int]) -> int:
    return tokens.index(TOKEN) if TOKEN in tokens else 0


def _library_answer(folder: Path, model: Any, **options: Any) -> list[int]:
    from transformers import AutoTokenizer

    prompt = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        local_chats.chat("Hello"),
        add_generation_prompt=True,
        return_dict=False,
        return_tensors="pt",
    )
    options = {"max_new_tokens": COUNT, "do_sample": False, **options}
    done = model.generate(prompt, **options)
    return list(map(int, done[0, prompt.shape[1] :]))


def _transformers(load: Any, folder: Path, more: tuple[str, ...]) -> Road:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from backends.huggingface import HuggingfaceExecutor

    model = AutoModelForCausalLM.from_pretrained(folder)
    beams = {"num_beams": 2} if "num_beams=2" in more else {}
    tokens = _library_answer(folder, model, **beams)
    if _place(tokens) < 2:
        pytest.skip("no beam says it")
    before = AutoTokenizer.from_pretrained(folder).decode(tokens[: _place(tokens)])
    options = ("--max_new_tokens", COUNT, *(("--generation_kwargs", *more) if more else ()))
    talker = load(HuggingfaceExecutor, "--model_path", folder, *options)
    return Road(talker.executor, talker, before, {})


def _llama(load: Any, folder: Path) -> Road:
    pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
    from backends.llamacpp import LlamacppExecutor

    options = ("--max_tokens", COUNT, "--temperature", 0, "--threads", 1)
    talker = load(LlamacppExecutor, "--model_path", folder / "tiny.gguf", *options)
    for bias in range(1, 100):
        more = {"parameter": f'llm_logit_bias {{"{TOKEN}": {bias / 20}}}'}
        made = Road(talker.executor, talker, "", more)
        before = made.ask(f"llm_stop_token_ids {TOKEN}")
        if 3 <= len(before) < 12:
            return made._replace(before=before)
    raise AssertionError("no bias will do")


def test_a_special_token_is_never_shown(road: Road) -> None:
    """Without a stop word the answer goes on behind it."""
    whole = road.ask()
    assert whole.startswith(road.before)
    assert len(whole) > len(road.before)
    assert not any(name in whole for name in SPECIAL)


def test_a_stop_word_may_be_a_special_token(road: Road) -> None:
    """Through a stream and without one."""
    assert road.ask(f"llm_stop {MARK}") == road.before
    pieces = road.talker.pieces("Hello", **road.commands(f"stop {MARK}"))
    assert "".join(pieces) == road.before


def test_a_stop_word_may_end_or_begin_with_a_special_token(road: Road) -> None:
    """What belongs to it is not shown; what does not is."""
    whole, before = road.ask(), road.before
    after = whole[len(before)]
    assert road.ask(f"llm_stop {before[-1]}{MARK}") == before[:-1]
    assert road.ask(f"llm_stop {before[-2:]}{MARK}{after}") == before[:-2]
    assert road.ask(f"llm_stop {before[-1]}{MARK}never") == whole


def test_a_stop_token_ends_an_answer(road: Road) -> None:
    """By its number, beside others."""
    text, request = local_chats.ask(
        road.executor, "Hello", **road.commands(f"llm_stop_token_ids [0, {TOKEN}]")
    )
    assert text == road.before
    assert request.completion_tokens == len(road.before) + 1
    (letter,) = road.executor.model.tokenizer.tokenize(road.before[1])
    assert road.before[1] not in road.ask(f"stop_token_ids {letter}")


def test_unknown_stop_tokens_are_named(
    road: Road, load: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator's end the start; a bot's are in the log once, and it is answered."""
    generation_options.warn_once.cache_clear()
    whole = road.ask()
    assert [road.ask("llm_stop_token_ids 999999") for _ in range(2)] == [whole] * 2
    assert caplog.text.count("999999 is no token; the model has 0 to ") == 1
    options = ("--model_path", road.executor.args.model_path, "--stop_token_ids", 5, 999999)
    with pytest.raises(UsageError, match="stop_token_ids: 999999 is no token; the model has 0 to"):
        load(type(road.executor), *options)


def test_special_tokens_that_a_model_or_a_user_spells_out_are_text(road: Road) -> None:
    """The prompt has the control tokens of its template, and no others."""
    special = range(len(SPECIAL))
    clean = local_chats.create(road.executor, "a", "b", "c").prompt_ids
    spelled = local_chats.create(road.executor, f"a{MARK}", f"b{MARK}{SPECIAL[2]}", "c").prompt_ids
    assert [one for one in spelled if one in special] == [one for one in clean if one in special]
    assert len(spelled) == len(clean) + len(2 * MARK + SPECIAL[2])


Load = Callable[..., Any]


@pytest.mark.parametrize("name", ["huggingface", "llamacpp"])
def test_the_plain_template_ends_answers_at_its_own_markers(
    load: Load, tmp_path: Path, name: str
) -> None:
    """At the beginning of a line; not where another template is used instead."""
    if name == "huggingface":
        pytest.importorskip("torch", reason="the huggingface backend needs torch")
        from backends.huggingface import HuggingfaceExecutor as Executor

        path = tiny_models.write_folder(tmp_path / "m", template=None)
    else:
        pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
        from backends.llamacpp import LlamacppExecutor as Executor

        path = tiny_models.write_gguf(tmp_path / "m.gguf", template=None)
    plain = load(Executor, "--model_path", path, "--stop", "never").executor
    prose = "The user: Bob. (assistant: Eve)\nusers: two\n user: 3\n"

    def stopped(executor: ModelExecutor, text: str, **commands: str) -> str:
        return local_chats.stopped(local_chats.create(executor, "x", **commands), text)

    assert stopped(plain, prose) == prose
    for role in ("user", "assistant", "system"):
        assert stopped(plain, f"{prose}Bye.\n{role}: Hi") == f"{prose}Bye."
    own = f"{prose}Bye.\nuser: Hi"
    assert stopped(plain, own, template="{{ messages[-1].content }}") == own
    other = ("--override_chat_template", "{{ messages[-1].content }}")
    assert stopped(load(Executor, "--model_path", path, *other).executor, own) == own
    first, second = "user: x\nassistant:", " y\nuser: z\nassistant:"
    ids = local_chats.create(plain, "x", " y\n", "z").prompt_ids
    assert ids == plain.model.tokenizer.tokenize(first + second), (
        "what was computed of the answer is reused"
    )


def test_an_option_names_stop_tokens_in_a_file(load: Load, tmp_path: Path) -> None:
    """They add up with those of the command line."""
    pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
    from backends.llamacpp import LlamacppExecutor

    path, file = tiny_models.write_gguf(tmp_path / "m.gguf"), tmp_path / "c.json"
    file.write_text(json.dumps({"stop_token_ids": [5, 6]}), encoding="utf-8")
    options = ("--model_path", path, "-c", file, "--stop_token_ids", 7)
    executor = load(LlamacppExecutor, *options).executor
    assert local_chats.create(executor, "x").stop_token_ids == {5, 6, 7}
