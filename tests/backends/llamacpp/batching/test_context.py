"""What llama.cpp is given: input that would abort the process is refused before."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from backends.llamacpp import LlamacppExecutor
from tests.support.models import tiny_ggufs

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
numpy = pytest.importorskip("numpy", reason="which comes with it")

from backends.llamacpp.batching.context import Aborted, LlamaContext  # noqa: E402 - once it is there
from backends.llamacpp.batching.token_batch import SequenceChunk  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the library's own
]
LENGTH = 512
SLOTS = 3


@pytest.fixture
def make(load: Any, tmp_path: Path) -> Any:
    """Return a function that makes an empty context of an architecture."""

    def context(name: str = "llama") -> LlamaContext:
        path = tiny_ggufs.write_gguf(tmp_path / f"{name}.gguf", name)
        options = ("--context_window", LENGTH, "--threads", 1, "--flash_attn", "off")
        several = ("--concurrent_req_limit", SLOTS, "--cache_type", "f32")
        executor = load(LlamacppExecutor, "--model_path", path, *options, *several).executor
        made: LlamaContext = executor.engine._scheduler._context
        made.model = executor.model  # kept as long as this
        return made

    return context


def logits(context: LlamaContext, slot: int, tokens: list[int]) -> Any:
    """Return the logits after these tokens in a slot."""
    return context.decode([SequenceChunk(slot, tokens, True)]).logits.copy()


def test_logits_come_in_the_order_of_the_chunks_that_want_them(make: Any) -> None:
    """Each as if its slot were alone; the positions are those of the last tokens."""
    context = make()
    alone = [logits(context, slot, tokens) for slot, tokens in ((0, [5, 6]), (2, [7, 8, 9]))]
    context.clear()
    chunks = [
        SequenceChunk(0, [5, 6], True),
        SequenceChunk(1, [3, 4], False),
        SequenceChunk(2, [7, 8, 9], True),
    ]
    result = context.decode(chunks)
    assert result.positions == [1, 6]
    assert result.logits.shape == (2, 259)
    assert numpy.allclose(result.logits, numpy.concatenate(alone), atol=1e-4)
    assert context.sequence_lengths == [2, 2, 3]
    assert context.decode([SequenceChunk(1, [5], False)]).logits.shape == (0, 259)


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([], "or none"),
        ([SequenceChunk(0, [], True)], "or none"),
        ([SequenceChunk(0, [1], True), SequenceChunk(1, [], True)], "no token"),
        ([SequenceChunk(3, [1], True)], "slots"),
        ([SequenceChunk(-1, [1], True)], "slots"),
        ([SequenceChunk(1, [1], True), SequenceChunk(0, [1], True)], "slots"),
        ([SequenceChunk(1, [1], True), SequenceChunk(1, [1], True)], "slots"),
        ([SequenceChunk(0, [259], True)], "no token"),
        ([SequenceChunk(0, [-1], True)], "no token"),
        ([SequenceChunk(0, [1] * (LENGTH + 1), True)], "holds 512 tokens and no more"),
        (
            [SequenceChunk(slot, [1] * LENGTH, True) for slot in range(SLOTS)],
            "more than 1000 tokens",
        ),
    ],
)
def test_input_that_would_abort_the_process_is_refused(
    make: Any, chunks: list[SequenceChunk], words: str
) -> None:
    """No slot has changed, and the next decode() is right."""
    context = make()
    context.batch_tokens = 1000
    before = logits(context, 1, [4, 5])
    with pytest.raises(ValueError, match=words):
        context.decode(chunks)
    assert context.sequence_lengths == [0, 2, 0]
    context.truncate(1, 0)
    assert numpy.allclose(logits(context, 1, [4, 5]), before, atol=1e-4)


def test_a_slot_can_be_filled_to_its_capacity(make: Any) -> None:
    """All of them at once; then each is full."""
    context = make()
    for _ in range(LENGTH // 64):
        context.decode([SequenceChunk(slot, [5] * 64, True) for slot in range(SLOTS)])
    assert context.sequence_lengths == [LENGTH] * SLOTS
    for slot in range(SLOTS):
        with pytest.raises(ValueError, match="no more"):
            context.decode([SequenceChunk(slot, [5], True)])


def test_a_gap_with_a_full_slot_is_not_filled(make: Any) -> None:
    """The dummy token has no room there."""
    context = make()
    context.gap_fill = SLOTS
    context.decode([SequenceChunk(1, [5] * LENGTH, True)])
    alone = [logits(context, slot, [5, 6]) for slot in (0, 2)]
    for slot in (0, 2):
        context.truncate(slot, 0)
    result = context.decode([SequenceChunk(0, [5, 6], True), SequenceChunk(2, [5, 6], True)])
    assert result.positions == [1, 3]
    assert numpy.allclose(result.logits, numpy.concatenate(alone), atol=1e-4)


@pytest.mark.parametrize("name", tiny_ggufs.ARCHITECTURES)
def test_truncated_tokens_are_gone(make: Any, name: str) -> None:
    """A slot goes on from its first tokens, or empty if it cannot."""
    context = make(name)
    right = logits(context, 0, [5, 6, 7, 8])
    context.truncate(0, 0)
    context.decode([SequenceChunk(0, [5, 6, 9, 9, 9], False)])
    kept = context.truncate(0, 2)
    assert kept == (0 if name in tiny_ggufs.STATEFUL else 2)
    assert context.sequence_lengths[0] == kept
    assert numpy.allclose(logits(context, 0, [5, 6, 7, 8][kept:]), right, atol=1e-3)


def test_a_sequence_is_copied_to_another_slot(make: Any) -> None:
    """In part, though llama.cpp copies all; what the other held is gone, the first goes on."""
    context = make()
    right = logits(context, 0, [5, 6, 7, 8])
    context.decode([SequenceChunk(1, [9] * 50, False)])
    assert context.copy(0, 1, 3) == 3
    assert context.sequence_lengths == [4, 3, 0]
    assert numpy.allclose(logits(context, 1, [8]), right, atol=1e-4)
    context.truncate(0, 3)
    assert numpy.allclose(logits(context, 0, [8]), right, atol=1e-4)


@pytest.mark.parametrize("name", tiny_ggufs.ARCHITECTURES)
def test_a_decode_can_be_aborted(make: Any, name: str) -> None:
    """In the middle, too; the slots hold what they held before, or are empty."""
    context = make(name)
    right = logits(context, 0, [5] * 300)
    context.truncate(0, 0)
    context.decode([SequenceChunk(0, [5] * 100, False)])
    timer = threading.Timer(0.002, context.abort)
    timer.start()
    with pytest.raises(Aborted):
        while timer.is_alive():  # until it is hit, somewhere
            context.decode(
                [SequenceChunk(1, [6] * LENGTH, True), SequenceChunk(2, [7] * LENGTH, True)]
            )
            context.truncate(1, 0)
            context.truncate(2, 0)
        context.decode([SequenceChunk(1, [6], True)])
    timer.join()
    with pytest.raises(Aborted):
        context.decode([SequenceChunk(0, [5], True)])
    context.clear_abort()
    assert context.sequence_lengths[0] in (100, 0)
    assert context.sequence_lengths[1:] == [0, 0]
    assert numpy.allclose(
        logits(context, 0, [5] * (300 - context.sequence_lengths[0])), right, atol=1e-3
    )
