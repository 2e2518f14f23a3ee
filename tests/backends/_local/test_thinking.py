"""Thoughts in both engines: what a model writes is forced, all else is the engine's own work."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backends._local.completion import Completion
from kuwa_min.chat import catalog
from kuwa_min.chat.chunks import ProgressChunk
from kuwa_min.chat.thinking import signs
from kuwa_min.serving.generations.generator_runner import GeneratorRunner
from tests.conftest import MakeOnce
from tests.support import local_chats
from tests.support.models import tiny_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
TOKENS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>")
TEMPLATE = tiny_models.TEMPLATE + (
    "{% if harmony is defined %}<|start|>assistant{% elif enable_thinking is defined "
    "and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
)
COUNT = 24  # tokens of an answer
END = tiny_models.SPECIAL[tiny_models.END]
CLOSING = "\n</think>\n\n"
HARMONY = (
    *("<|channel|>", "analysis", "<|message|>", "Hm: <|im_end|>", "<|end|>", "<|start|>"),
    *("assistant", "<|channel|>", "final", "<|message|>", "Hi [1] < 2", "<|return|>", END),
)


class Road(NamedTuple):
    """A loaded engine."""

    talker: Any

    def script(self, patch: pytest.MonkeyPatch, *written: str) -> list[int]:
        """Let the model write this, whatever it would; return the tokens."""
        tokens = list(self._tokens(written))
        left: Iterator[int] = iter(tokens)
        patch.setattr(Completion, "choose", lambda self, token: next(left))
        return tokens

    def _tokens(self, written: Iterable[str]) -> Iterator[int]:
        tokenizer = self.talker.executor.model.tokenizer
        for text in written:
            if text in (*TOKENS, END):
                yield from tokenizer.tokenize(text)
            else:
                yield from tokenizer.tokenize_ordinary(text, is_first=False)

    def ask(self, *parameters: str) -> tuple[str, Any]:
        """Return the answer with some PARAMETERs of a Modelfile, and its request."""
        names = ("parameter", "kuwaparam", "PARAMETER")
        commands = dict(zip(names, parameters, strict=False))
        return local_chats.ask(self.talker.executor, "Hello", **commands)


def _write_gguf(folder: Path) -> None:
    tiny_models.write_gguf(folder / "tiny.gguf", template=TEMPLATE, more=TOKENS)


def _write_folder(folder: Path) -> None:
    tiny_models.write_folder(folder, template=TEMPLATE, more=TOKENS)


def _load(name: str, load: Any, make_once: MakeOnce) -> Road:
    if name == "llamacpp":
        pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
        from backends.llamacpp import LlamacppExecutor

        path = make_once("thinking-gguf", _write_gguf) / "tiny.gguf"
        options = ("--max_tokens", COUNT, "--temperature", 0, "--threads", 1)
        return Road(load(LlamacppExecutor, "--model_path", path, *options))
    pytest.importorskip("torch", reason="the huggingface backend needs torch")
    pytest.importorskip("transformers", reason="and transformers")
    from backends.huggingface import HuggingfaceExecutor

    path = make_once("thinking-folder", _write_folder)
    options = ("--max_new_tokens", COUNT)
    more = ("--generation_kwargs", "min_length=1") if name == "generate" else ()
    return Road(load(HuggingfaceExecutor, "--model_path", path, *options, *more))


@pytest.fixture(params=["huggingface", "llamacpp"])
def road(request: Any, load: Any, make_once: MakeOnce) -> Road:
    """Load a model into each engine."""
    return _load(request.param, load, make_once)


def test_what_the_template_opened_is_closed_by_the_model(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden, a note or shown; its tokens are counted, and no stop word is found in it."""
    for mode, before in (
        ("hide", ""),
        ("note", "<<<WARNING>>>Hm. 世 < Hi<<</WARNING>>>"),
        ("show", "<think>Hm. 世 < Hi\n</think>\n\n"),
    ):
        tokens = road.script(monkeypatch, "Hm. 世 < Hi\n</think>\n\nHi 世!", END)
        text, request = road.ask(f"llm_thinking {mode}", "llm_stop Hm.", "llm_max_tokens 99")
        assert text == before + "Hi 世!"
        assert request.completion_tokens == len(tokens)
    road.script(monkeypatch, "Hm.</think>\n\nHi!", END)
    assert road.ask("llm_stop i!")[0] == "H"


def test_tags_that_the_chat_asks_for_are_a_part_of_the_answer(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models put their answers behind a thought into the same ones."""
    for said, answer in (("Hello", "42"), ("Use <answer>.", "<answer>42</answer>")):
        road.script(monkeypatch, "Hm.\n</think>\n\n<answer>42</answer>", END)
        options = {"parameter": "llm_max_tokens 99"}
        assert local_chats.ask(road.talker.executor, said, **options)[0] == answer


def _write_response_template(folder: Path) -> None:
    _write_folder(folder)
    path = folder / "tokenizer_config.json"
    thought = {"open": "<think>", "close": "</think>"}
    fields = {"reasoning_content": thought, "content": {"close": END}}
    template = {"start_anchor": "<|im_start|>assistant\n", "fields": fields}
    said = json.loads(path.read_text(encoding="utf-8")) | {"response_template": template}
    path.write_text(json.dumps(said), encoding="utf-8")


def test_a_tokenizers_own_response_template_is_used(
    load: Any, make_once: MakeOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By transformers' parser, which knows what the prompt has opened."""
    pytest.importorskip("transformers.utils.chat_parsing", reason="older versions lack it")
    from backends.huggingface import HuggingfaceExecutor

    folder = make_once("thinking-response-template", _write_response_template)
    road = Road(load(HuggingfaceExecutor, "--model_path", folder, "--max_new_tokens", 99))
    assert type(road.talker.executor.model.create_splitter([1], {})).__name__ == "ResponseSplitter"
    for mode, before in (("hide", ""), ("show", "<think>Hm. 世\n</think>\n\n")):
        road.script(monkeypatch, "Hm. 世\n</think>\n\nHi 世!", END)
        assert road.ask(f"llm_thinking {mode}", "llm_stop Hm.")[0] == f"{before}Hi 世!"


def test_channels_of_special_tokens_are_told_apart(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although answers show no special tokens; what is spelled like one is text."""
    for mode, shown in (("hide", ""), ("show", "<think>Hm: <|im_end|></think>\n\n")):
        road.script(monkeypatch, *HARMONY)
        asked = ('llm_template_kwargs {"harmony": 1}', f"llm_thinking {mode}", "llm_max_tokens 99")
        assert road.ask(*asked)[0] == f"{shown}Hi [1] < 2"


def test_a_thought_without_an_answer_is_told(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """With signs of life while it was thought, in place of an empty answer."""
    monkeypatch.setattr(signs.SignsOfLife, "interval", 0.01)
    road.script(monkeypatch, "Hm" * COUNT)
    choose, is_shown, pieces = Completion.choose, threading.Event(), list[Any]()

    def choose_later(completion: Completion, token: int) -> int:
        assert is_shown.wait(60)
        return choose(completion, token)

    def write(piece: Any) -> None:
        pieces.append(piece)
        if isinstance(piece, ProgressChunk) and piece.desc == signs.THINKING:
            is_shown.set()

    monkeypatch.setattr(Completion, "choose", choose_later)
    road.talker.run(GeneratorRunner(), write, "Hello")
    assert [one for one in pieces if not isinstance(one, ProgressChunk)] == [catalog.ONLY_THOUGHT]


def test_variables_reach_the_template(road: Road) -> None:
    """An answer without a thought is the model's whole text."""
    asked = 'llm_template_kwargs {"enable_thinking": false}'
    text, request = road.ask(asked)
    assert text.strip() and not request.is_only_thought
    executor = road.talker.executor
    prompt = executor.model.tokenizer.tokenize("<think>\n\n</think>\n\n")
    assert request.prompt_ids[-len(prompt) :] == prompt
    assert road.ask()[0] == ""  # it thinks to the end


@pytest.mark.parametrize("name", ["huggingface", "generate", "llamacpp"])
@pytest.mark.parametrize("most", [0, 3])
def test_a_thought_that_is_too_long_is_closed(
    name: str, most: int, load: Any, make_once: MakeOnce
) -> None:
    """What closes it are tokens that the model reads, and goes on from."""
    road = _load(name, load, make_once)
    shown, request = road.ask(f"llm_thinking_tokens {most}", "llm_thinking show")
    thought, closed, answer = shown.rpartition(f"{CLOSING}")
    if most:
        assert thought.startswith("<think>") and closed
        assert len(thought) == len("<think>") + most
    assert request.completion_tokens == COUNT
    assert 0 < len(answer) <= COUNT - most - len(CLOSING)
    assert road.ask(f"llm_thinking_tokens {most}")[0] == answer
