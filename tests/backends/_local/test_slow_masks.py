"""Answers whose masks are slow to come: others go on meanwhile, and every token is as before."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backends._local.constraints.answer import ConstrainedAnswer, Openers
from backends._local.constraints.child import NUMBER
from backends._local.constraints.matcher import Matcher
from kuwa_min.chat.catalog import TOO_COMPLEX
from kuwa_min.errors import AnswerError
from tests.conftest import MakeOnce
from tests.support.batched_chats import Answer, Chats
from tests.support.models import tiny_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
COUNT = 24  # tokens of an answer
SLOTS = ("--concurrent_req_limit", 3)


class Slow(NamedTuple):
    """A constrained answer; the test is the process that computes its masks."""

    answer: Answer
    process: socket.socket
    mask: bytes  # of all tokens

    def send(self, count: int = 1) -> None:
        """Send masks, and take note of the tokens that come."""
        for _ in range(count):
            self.process.sendall(self.mask)
            assert self.process.recv(NUMBER.size), "a token"

    def serve(self) -> None:
        """Send masks until the answer is over."""
        self.process.sendall(self.mask)
        while self.process.recv(NUMBER.size):
            self.process.sendall(self.mask)


class Road(NamedTuple):
    """A loaded engine."""

    chats: Chats
    processes: list[socket.socket]

    def begin(self, question: str, **options: object) -> Slow:
        """Ask for a constrained answer."""
        ours, process = socket.socketpair()
        process.settimeout(60)
        self.processes.append(process)
        model = self.chats.executor.model
        size = model.vocabulary_size
        ends = [token for token in range(size) if token in model.eos_token_ids]
        request = self.chats.create(question, **options)
        matcher = Matcher(ours, size)
        request.constrained = ConstrainedAnswer(matcher, Openers(model.tokenizer), ends)
        return Slow(self.chats.submit(request), process, bytes([255] * ((size + 8) // 8)))


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
def road(request: Any, load: Any, make_once: MakeOnce) -> Iterator[Road]:
    """Load a model in each engine."""
    chats = _load(request.param, load, make_once)
    road = Road(chats, [])
    yield road
    chats.executor.engine.close()
    for process in road.processes:
        process.close()


@pytest.mark.parametrize("masks", [0, 2])
def test_others_do_not_wait_for_a_mask(road: Road, masks: int) -> None:
    """Of the first token or a later one; all say what they say alone."""
    said, other = road.chats.ask("Hello").whole(), road.chats.ask("Count to a hundred").whole()
    slow = road.begin("Hello")
    slow.send(masks)
    for question, answer in (("Count to a hundred", other), ("Hello", said)):
        assert road.chats.ask(question).whole() == answer
    assert slow.answer.request.completion_tokens == masks
    slow.serve()
    assert slow.answer.whole() == said
    assert road.chats.ask("Hello").whole() == said, "what is reused of it"


def test_waiting_for_a_mask_ends(road: Road) -> None:
    """With a cancel, or with the process; its place is free then."""
    said = road.chats.ask("Hello").whole()
    cancelled, failed, both = (road.begin("Hello") for _ in range(3))
    for one in (cancelled, failed, both):
        one.send()
    cancelled.answer.cancel()
    assert not cancelled.process.recv(1), "closed"
    failed.process.close()
    with pytest.raises(AnswerError) as error:
        failed.answer.whole()
    assert str(error.value) == TOO_COMPLEX
    assert road.chats.ask("Hello").whole() == said
    both.serve()
    assert both.answer.whole() == said
