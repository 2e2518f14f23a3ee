"""Answers whose masks are slow to come: others go on meanwhile, and every token is as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backends._local.constraints.child import NUMBER
from kuwa_min.chat.catalog import TOO_COMPLEX
from kuwa_min.errors import AnswerError
from tests.backends._local.constraints.late_masks import LateMasks
from tests.conftest import MakeOnce
from tests.support.batched_chats import Answer, Chats
from tests.support.models import tiny_models
from tests.support.programs import TIMEOUT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
COUNT = 24  # tokens of an answer
SLOTS = ("--concurrent_req_limit", 3)


class SlowAnswer(NamedTuple):
    """A constrained answer; the test is the process that computes its masks."""

    answer: Answer
    masks: LateMasks

    def send(self, count: int = 1) -> None:
        """Send masks, and receive a token after each."""
        for _ in range(count):
            self.masks.send(1)
            assert self.masks.socket.recv(NUMBER.size), "a token"

    def serve(self) -> None:
        """Send masks until the answer is over."""
        self.masks.send(1)
        while self.masks.socket.recv(NUMBER.size):
            self.masks.send(1)


class LoadedEngine(NamedTuple):
    """The chats of a loaded engine, and the masks of those that are constrained."""

    chats: Chats
    masks: list[LateMasks]

    def begin(self, question: str) -> SlowAnswer:
        """Ask for a constrained answer."""
        request = self.chats.create(question)
        masks = LateMasks(request, self.chats.executor.model)
        masks.socket.settimeout(TIMEOUT)
        self.masks.append(masks)
        return SlowAnswer(self.chats.submit(request), masks)


def _write_gguf(folder: Path) -> None:
    tiny_models.write_gguf(folder / "tiny.gguf")


def _load(name: str, load: Any, make_once: MakeOnce) -> Chats:
    engine, _, more = name.partition("-")
    options = (*SLOTS, *([f"--{more}"] if more else []))
    if engine == "llamacpp":
        pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
        from backends.llamacpp import LlamacppExecutor

        path = make_once("slow-masks-gguf", _write_gguf) / "tiny.gguf"
        given = ("--max_tokens", COUNT, "--temperature", 0, "--threads", 1, *options)
        return Chats(load(LlamacppExecutor, "--model_path", path, *given).executor)
    pytest.importorskip("torch", reason="the huggingface backend needs torch")
    pytest.importorskip("transformers", reason="and transformers")
    from backends.huggingface import HuggingfaceExecutor

    path = make_once("slow-masks-folder", tiny_models.write_folder)
    given = ("--max_new_tokens", COUNT, *options)
    return Chats(load(HuggingfaceExecutor, "--model_path", path, *given).executor)


@pytest.fixture(
    params=["llamacpp", "llamacpp-reproducible", "huggingface", "huggingface-reproducible"]
)
def engine(request: Any, load: Any, make_once: MakeOnce) -> Iterator[LoadedEngine]:
    """Load a model in each engine."""
    chats = _load(request.param, load, make_once)
    engine = LoadedEngine(chats, [])
    yield engine
    chats.executor.engine.close()
    for masks in engine.masks:
        masks.close()


@pytest.mark.parametrize("masks", [0, 2])
def test_others_do_not_wait_for_a_mask(engine: LoadedEngine, masks: int) -> None:
    """Of the first token or a later one; all say what they say alone."""
    said, other = engine.chats.ask("Hello").whole(), engine.chats.ask("Count to a hundred").whole()
    slow = engine.begin("Hello")
    slow.send(masks)
    for question, answer in (("Count to a hundred", other), ("Hello", said)):
        assert engine.chats.ask(question).whole() == answer
    assert slow.answer.request.completion_tokens == masks
    slow.serve()
    assert slow.answer.whole() == said
    assert engine.chats.ask("Hello").whole() == said, "what is reused of it"


def test_waiting_for_a_mask_ends(engine: LoadedEngine) -> None:
    """With a cancel, or with the process; its place is free then."""
    said = engine.chats.ask("Hello").whole()
    cancelled, failed, both = (engine.begin("Hello") for _ in range(3))
    for one in (cancelled, failed, both):
        one.send()
    cancelled.answer.cancel()
    assert not cancelled.masks.socket.recv(1), "closed"
    failed.masks.close()
    with pytest.raises(AnswerError) as error:
        failed.answer.whole()
    assert str(error.value) == TOO_COMPLEX
    assert engine.chats.ask("Hello").whole() == said
    both.serve()
    assert both.answer.whole() == said
