"""What llama.cpp is given: everything that would end the process is refused before."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from backends.llamacpp import LlamacppExecutor
from tests.support.models import tiny_ggufs

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
numpy = pytest.importorskip("numpy", reason="which comes with it")

from backends.llamacpp.context import Aborted, LlamaContext, SequenceChunk  # noqa: E402 - once it is there

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the library's own
]
LENGTH = 512
ROWS = 3


@pytest.fixture
def make(load: Any, tmp_path: Path) -> Any:
    """Give what makes an empty context of an architecture."""

    def context(name: str = "llama") -> LlamaContext:
        path = tiny_ggufs.write_gguf(tmp_path / f"{name}.gguf", name)
        options = ("--context_window", LENGTH, "--threads", 1, "--flash_attn", "off")
        slots = ("--concurrent_req_limit", ROWS, "--cache_type", "f32")
        executor = load(LlamacppExecutor, "--model_path", path, *options, *slots).executor
        made: LlamaContext = executor.engine._scheduler._context
        made.model = executor.model  # kept as long as this
        return made

    return context


def logits(context: LlamaContext, row: int, tokens: list[int]) -> Any:
    """Return what follows these tokens in a row."""
    return context.decode([SequenceChunk(row, tokens, True)]).logits.copy()


def test_logits_come_in_the_order_of_the_rows_that_want_them(make: Any) -> None:
    """Each as if its row were alone; the places are those of the tokens that they follow."""
    context = make()
    alone = [logits(context, row, tokens) for row, tokens in ((0, [5, 6]), (2, [7, 8, 9]))]
    context.clear()
    parts = [
        SequenceChunk(0, [5, 6], True),
        SequenceChunk(1, [3, 4], False),
        SequenceChunk(2, [7, 8, 9], True),
    ]
    outcome = context.decode(parts)
    assert outcome.positions == [1, 6]
    assert outcome.logits.shape == (2, 259)
    assert numpy.allclose(outcome.logits, numpy.concatenate(alone), atol=1e-4)
    assert context.sequence_lengths == [2, 2, 3]
    assert context.decode([SequenceChunk(1, [5], False)]).logits.shape == (0, 259)


@pytest.mark.parametrize(
    ("parts", "words"),
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
        ([SequenceChunk(row, [1] * LENGTH, True) for row in range(ROWS)], "more than 1000 tokens"),
    ],
)
def test_what_would_end_the_process_is_refused(
    make: Any, parts: list[SequenceChunk], words: str
) -> None:
    """No row has changed, and the next computation is right."""
    context = make()
    context.batch_tokens = 1000
    before = logits(context, 1, [4, 5])
    with pytest.raises(ValueError, match=words):
        context.decode(parts)
    assert context.sequence_lengths == [0, 2, 0]
    context.truncate(1, 0)
    assert numpy.allclose(logits(context, 1, [4, 5]), before, atol=1e-4)


def test_a_row_can_be_filled_to_its_end(make: Any) -> None:
    """By all of them at once, in as many computations as it takes; then each is full."""
    context = make()
    for _ in range(LENGTH // 64):
        context.decode([SequenceChunk(row, [5] * 64, True) for row in range(ROWS)])
    assert context.sequence_lengths == [LENGTH] * ROWS
    for row in range(ROWS):
        with pytest.raises(ValueError, match="no more"):
            context.decode([SequenceChunk(row, [5], True)])


def test_full_rows_are_no_bridge(make: Any) -> None:
    """The dummy token has no room there."""
    context = make()
    context.gap_fill = ROWS
    context.decode([SequenceChunk(1, [5] * LENGTH, True)])
    alone = [logits(context, row, [5, 6]) for row in (0, 2)]
    for row in (0, 2):
        context.truncate(row, 0)
    outcome = context.decode([SequenceChunk(0, [5, 6], True), SequenceChunk(2, [5, 6], True)])
    assert outcome.positions == [1, 3]
    assert numpy.allclose(outcome.logits, numpy.concatenate(alone), atol=1e-4)


@pytest.mark.parametrize("name", tiny_ggufs.ARCHITECTURES)
def test_what_is_forgotten_is_gone(make: Any, name: str) -> None:
    """A row goes on from its first tokens, or from nothing if it cannot."""
    context = make(name)
    right = logits(context, 0, [5, 6, 7, 8])
    context.truncate(0, 0)
    context.decode([SequenceChunk(0, [5, 6, 9, 9, 9], False)])
    kept = context.truncate(0, 2)
    assert kept == (0 if name in tiny_ggufs.STATEFUL else 2)
    assert context.sequence_lengths[0] == kept
    assert numpy.allclose(logits(context, 0, [5, 6, 7, 8][kept:]), right, atol=1e-3)


def test_a_row_is_copied_to_another(make: Any) -> None:
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
def test_a_computation_can_be_interrupted(make: Any, name: str) -> None:
    """Also when it has computed a part; rows hold what they held before, or are empty."""
    context = make(name)
    right = logits(context, 0, [5] * 300)
    context.truncate(0, 0)
    context.decode([SequenceChunk(0, [5] * 100, False)])
    timer = threading.Timer(0.002, context.abort)
    timer.start()
    with pytest.raises(Aborted):
        for _ in range(1000):  # until it is hit, somewhere
            context.decode(
                [SequenceChunk(1, [6] * LENGTH, True), SequenceChunk(2, [7] * LENGTH, True)]
            )
            context.truncate(1, 0)
            context.truncate(2, 0)
    timer.join()
    with pytest.raises(Aborted):
        context.decode([SequenceChunk(0, [5], True)])
    context.clear_abort()
    assert context.sequence_lengths[0] in (100, 0)
    assert context.sequence_lengths[1:] == [0, 0]
    assert numpy.allclose(
        logits(context, 0, [5] * (300 - context.sequence_lengths[0])), right, atol=1e-3
    )
