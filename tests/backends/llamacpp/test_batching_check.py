"""The check of llama.cpp at the start, with a fake context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
numpy = pytest.importorskip("numpy", reason="which comes with it")

from backends.llamacpp import batching_check  # noqa: E402 - once the library is there
from backends.llamacpp.batching.context import DecodeResult  # noqa: E402
from backends.llamacpp.batching.token_batch import SequenceChunk  # noqa: E402


class Clock:
    """A clock that advances only when something is computed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the seconds so far."""
        return self.now


class Context:
    """A context whose logits are the sum of a slot's tokens, with given durations."""

    def __init__(self, clock: Clock, slots: int, *, once: float, each: float, copy: float) -> None:
        self.sequence_lengths = [0] * slots
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self._clock, self._once, self._each, self._copy = clock, once, each, copy
        self.mixes = self.copies_wrongly = False
        self.failure: Exception | None = None

    def decode(self, chunks: Sequence[SequenceChunk]) -> DecodeResult:
        """Return the sums; swapped ones for a batch if `mixes`."""
        if self.failure:
            raise self.failure
        self._clock.now += self._once + self._each * len(chunks)
        for chunk in chunks:
            self._held[chunk.slot] += chunk.tokens
            self.sequence_lengths[chunk.slot] = len(self._held[chunk.slot])
        sums = [[float(sum(self._held[chunk.slot])), 1.0] for chunk in chunks if chunk.wants_logits]
        if self.mixes and len(chunks) > 1:
            sums.reverse()
        return DecodeResult(numpy.array(sums), [])

    def truncate(self, slot: int, kept: int) -> int:
        """Keep the first tokens."""
        del self._held[slot][kept:]
        self.sequence_lengths[slot] = kept
        return kept

    def copy(self, source: int, target: int, length: int) -> int:
        """Copy a sequence, which takes the given time."""
        self._clock.now += self._copy
        self._held[target] = self._held[source][:length]
        if self.copies_wrongly:
            self._held[target] = [99] * length
        self.sequence_lengths[target] = length
        return length

    def empty(self) -> None:
        """Empty all slots."""
        for slot in range(len(self.sequence_lengths)):
            self.truncate(slot, 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock that the check reads."""
    made = Clock()
    monkeypatch.setattr(batching_check.time, "perf_counter", made)
    return made


@pytest.mark.parametrize(
    ("once", "each", "gap_fill"),
    [(0.0, 1.0, 0), (1.0, 1.0, 1), (3.5, 1.0, 3), (1.0, 0.0, 8), (100.0, 1.0, 8), (0.5, 1.0, 0)],
)
def test_gaps_are_filled_as_far_as_a_ubatch_costs_more(
    clock: Clock, once: float, each: float, gap_fill: int
) -> None:
    """Dummy tokens must cost less than the ubatch that they save."""
    context: Any = Context(clock, 8, once=once, each=each, copy=0.0)
    findings = batching_check.examine(context, can_copy=True)
    assert findings.fault == ""
    assert findings.gap_fill == gap_fill
    assert context.sequence_lengths == [0] * 8


def test_copying_is_timed_and_compared(clock: Clock) -> None:
    """A wrong copy switches copying off, and recurrent models are not tried."""
    context: Any = Context(clock, 2, once=1.0, each=1.0, copy=0.25)
    assert batching_check.examine(context, can_copy=True).copy_seconds == pytest.approx(0.25)
    assert batching_check.examine(context, can_copy=False).copy_seconds is None
    context.copies_wrongly = True
    assert batching_check.examine(context, can_copy=True).copy_seconds is None


def test_sequences_that_disturb_each_other_are_a_fault(clock: Clock) -> None:
    """A single slot has none."""
    for slots, fault in ((2, True), (1, False)):
        context: Any = Context(clock, slots, once=1.0, each=1.0, copy=0.0)
        context.mixes = True
        found = batching_check.examine(context, can_copy=True).fault
        assert ("computed at once they are not what they are alone" in found) is fault


@pytest.mark.parametrize(
    ("failure", "fault"),
    [
        (
            RuntimeError("llama_decode() returned -3"),
            "the test of it failed: llama_decode() returned -3",
        ),
        (
            MemoryError("llama_decode() returned -2"),
            "there is not enough memory to test it: llama_decode() returned -2",
        ),
        (MemoryError(), "there is not enough memory to test it"),
    ],
)
def test_what_cannot_be_computed_is_a_fault(clock: Clock, failure: Exception, fault: str) -> None:
    """With what llama.cpp says."""
    context: Any = Context(clock, 2, once=1.0, each=1.0, copy=0.0)
    context.failure = failure
    assert batching_check.examine(context, can_copy=True).fault == fault
