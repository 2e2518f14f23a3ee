"""What is measured in a context that holds chats: durations of our own, and real models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from backends._local.machine import timing
from backends._local.machine.thread_choice import Threads
from backends.llamacpp import LlamacppExecutor
from tests.support.models import tiny_ggufs

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
numpy = pytest.importorskip("numpy", reason="which comes with it")

from backends.llamacpp.batching.context import Aborted  # noqa: E402 - once the library is there
from backends.llamacpp.batching.token_batch import SequenceChunk  # noqa: E402
from backends.llamacpp.device.speed_tests import PREFILL_TOKENS, SpeedTests  # noqa: E402

LENGTH = 256
HELD = [[5, 6, 7], [], [8] * 40]


class Context:
    """A context of four slots whose steps take as long as `seconds` says of threads and slots."""

    def __init__(self, lengths: list[int], seconds: Callable[[int, int, int], float]) -> None:
        self.sequence_lengths, self.capacity = lengths, LENGTH
        self.threads, self.gap_fill, self.copy_seconds = Threads(8, 8), 0, 0.5
        self.now, self._seconds, self.aborted = 0.0, seconds, False

    def decode(self, chunks: list[SequenceChunk]) -> None:
        """Add the tokens; take the seconds of (threads, slots, tokens)."""
        if self.aborted:
            raise Aborted
        count = sum(len(chunk.tokens) for chunk in chunks)
        threads = self.threads.prefill if count > len(chunks) else self.threads.decode
        self.now += self._seconds(threads, len(chunks), count)
        for chunk in chunks:
            self.sequence_lengths[chunk.slot] += len(chunk.tokens)

    def truncate(self, slot: int, length: int) -> int:
        """Keep the first tokens."""
        self.sequence_lengths[slot] = length
        return length

    def copy(self, source: int, target: int, length: int) -> int:
        """Take a while."""
        self.now += 0.125
        return self.truncate(target, length)

    def abort(self) -> None:
        """Let decode() raise."""
        self.aborted = True

    def clear_abort(self) -> None:
        """Let it compute."""
        self.aborted = False


def measured(
    monkeypatch: pytest.MonkeyPatch,
    context: Any,
    counts: list[int],
    *,
    can_truncate: bool = True,
    uses_gpu: bool = False,
) -> SpeedTests:
    """Measure it all with the context's clock."""
    monkeypatch.setattr(timing.time, "perf_counter", lambda: context.now)
    tests = SpeedTests(context, counts, can_truncate=can_truncate, uses_gpu=uses_gpu)
    lengths = list(context.sequence_lengths)
    for _ in tests.measure():
        pass
    assert context.sequence_lengths == lengths
    assert context.threads == (8, 8)  # before decide()
    return tests


def speed(decode: Mapping[int, float], prefill: Mapping[int, float]) -> Callable[..., float]:
    """Return the seconds of a step, whose second and later slots are for nothing."""
    return lambda threads, slots, tokens: (prefill if tokens > slots else decode)[threads]


DECODE, PREFILL = {2: 0.25, 4: 0.0625, 8: 0.0625}, {2: 2.0, 4: 1.0, 8: 0.5}


def test_threads_are_chosen_for_prompts_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """And then what depends on their speed; the second time nothing changes."""
    context = Context([3, 0, 0, 40], speed(DECODE, PREFILL))
    tests = measured(monkeypatch, context, [2, 4, 8])
    assert tests.decide() == (
        "threads: 4 (8 for prompts) instead of 8: a token takes 62.5 ms instead of "
        "62.5; fills gaps of 4 slots instead of 0"
    )
    assert (context.threads, context.gap_fill) == ((8, 4), 4)
    assert context.copy_seconds == pytest.approx(0.125)
    assert tests.decide() == ""


@pytest.mark.parametrize(
    ("lengths", "can_truncate", "gap_fill", "copy_seconds", "threads"),
    [
        ([3, 4, 5, 6], True, 4, 0.5, (8, 4)),  # no empty slot to copy to
        ([LENGTH, 0, 0, 3], True, 0, 0.5, (8, 4)),  # a full one
        ([3, 0, 0, 0], False, 0, 0.5, (8, 4)),  # a recurrent model: empty slots only
        ([3, 4, 5, 6], False, 0, 0.5, (8, 8)),
        ([LENGTH - PREFILL_TOKENS + 1] * 4, True, 4, 0.5, (8, 8)),
    ],
)
def test_what_slots_hold_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
    lengths: list[int],
    can_truncate: bool,
    gap_fill: int,
    copy_seconds: float,
    threads: tuple[int, int],
) -> None:
    """What cannot be measured beside it is as it was."""
    context = Context(lengths, speed(DECODE, PREFILL))
    measured(monkeypatch, context, [2, 4, 8], can_truncate=can_truncate).decide()
    found = (context.gap_fill, context.copy_seconds, context.threads)
    assert found == (gap_fill, copy_seconds, threads)


def test_given_threads_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps and copies are measured all the same."""
    context = Context([0] * 4, speed(DECODE, PREFILL))
    assert measured(monkeypatch, context, []).decide() == "fills gaps of 4 slots instead of 0"
    assert context.threads == (8, 8)


@pytest.mark.parametrize(("step", "gap_fill"), [(0.0625, 4), (0.125, 0)])
def test_a_slow_card_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, step: float, gap_fill: int
) -> None:
    """As a chat that comes would have to wait for it."""
    context = Context([0] * 4, lambda *_: step)
    measured(monkeypatch, context, [], uses_gpu=True).decide()
    assert context.gap_fill == gap_fill
    assert context.now < 1 or gap_fill


def test_an_abort_leaves_the_threads_as_they_were() -> None:
    """And no duration."""
    context: Any = Context([0] * 4, speed(DECODE, PREFILL))
    tests = SpeedTests(context, [2, 4, 8], can_truncate=True, uses_gpu=False)
    pieces = tests.measure()
    next(pieces)
    tests.abort()
    with pytest.raises(Aborted):
        list(pieces)
    assert context.threads == (8, 8)
    assert tests.decide() == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the library's own
@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_real_slots_compute_what_they_would(load: Any, tmp_path: Path, name: str) -> None:
    """After a measurement, to the bit: rows and their ends are as they were."""
    path = tiny_ggufs.write_gguf(tmp_path / f"{name}.gguf", name)
    options = ("--context_window", LENGTH, "--flash_attn", "off", "--cache_type", "f32")
    executor = load(
        LlamacppExecutor, "--model_path", path, *options, "--concurrent_req_limit", 3
    ).executor
    context = executor.engine._scheduler._context
    can_truncate = not executor.model.is_recurrent
    tests = SpeedTests(context, [1, 2], can_truncate=can_truncate, uses_gpu=False)

    def after(slot: int) -> Any:
        return context.decode([SequenceChunk(slot, [9, 10], True)]).logits.copy()

    def fill() -> None:
        context.clear()
        held = [SequenceChunk(slot, tokens, False) for slot, tokens in enumerate(HELD) if tokens]
        context.decode(held)

    fill()
    expected = [after(slot) for slot in (0, 2)]
    fill()
    for _ in tests.measure():
        pass
    assert context.sequence_lengths == [3, 0, 40]
    assert all((after(slot) == right).all() for slot, right in zip((0, 2), expected, strict=True))
    tests.decide()
    assert set(context.threads) <= {1, 2}
