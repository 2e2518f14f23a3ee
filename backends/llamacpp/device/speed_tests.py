"""Measure threads, gap filling and copying in a context that may hold chats."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial

from backends._local.machine.thread_choice import Threads, Timings, change, choose
from backends._local.machine.timing import compare
from backends.llamacpp.batching.context import DUMMY_TOKEN, LlamaContext
from backends.llamacpp.batching.token_batch import SequenceChunk
from backends.llamacpp.batching_check import slots_to_fill

PREFILL_TOKENS = 32  # computed at once, as many as a short prompt has
# Of a comparison; after them no other round begins. A card cannot be stopped within a step: where
# steps are so long that a chat would wait for them, none is measured.
SECONDS, SECONDS_ON_CARDS = 1.0, 0.02


class SpeedTests:
    """Measures numbers of threads, the filling of gaps, and copying; a Measurement.

    Tokens are computed behind what a slot holds, and removed again. thread_counts: to compare; none
    if they are not to change; can_truncate: false for recurrent models, of which empty slots only
    are used; uses_gpu: whether layers are on cards.
    """

    def __init__(
        self,
        context: LlamaContext,
        thread_counts: Sequence[int],
        *,
        can_truncate: bool,
        uses_gpu: bool,
    ) -> None:
        self._seconds = SECONDS_ON_CARDS if uses_gpu else SECONDS
        self._context, self._counts = context, thread_counts
        self._can_truncate = can_truncate
        self.threads = max([*context.threads, *thread_counts])
        self._forget()

    def _forget(self) -> None:
        self._timings = Timings({}, {})
        self._gap_seconds: dict[int, float] = {}  # of a decode step, by its slots
        self._copy_seconds: dict[bool, float] = {}  # of a decode step, without a copy and with one

    def measure(self) -> Generator[None, None, None]:
        """Measure in pieces of a decode(), and keep the durations."""
        self._forget()
        self._context.clear_abort()
        yield
        before = self._context.threads
        try:
            yield from self._measure_threads()
            self._context.threads = choose(self._timings, before)
            yield from self._measure_gaps()
            yield from self._measure_copies()
        finally:
            self._context.threads = before

    def abort(self) -> None:
        """End the decode() under way with Aborted; from any thread."""
        self._context.abort()

    def decide(self) -> str:
        """Use what is fastest; return what changes, or ""."""
        context, before = self._context, self._context.threads
        context.threads = choose(self._timings, before)
        changes = [change(self._timings, before, context.threads)]
        if self._gap_seconds:
            slots, single = max(self._gap_seconds), self._gap_seconds[1]
            fill = slots_to_fill(single, self._gap_seconds[slots], slots)
            if fill != context.gap_fill:
                changes.append(f"fills gaps of {fill} slots instead of {context.gap_fill}")
            context.gap_fill = fill
        if self._copy_seconds:
            context.copy_seconds = max(0.0, self._copy_seconds[True] - self._copy_seconds[False])
        return "; ".join(filter(None, changes))

    # -- what is measured

    def _measure_threads(self) -> Iterator[None]:
        slot = self._slot_with_room(PREFILL_TOKENS)
        if slot is None or len(self._counts) < 2:
            return
        decode = yield from self._compare_threads(slot, 1)
        prefill = yield from self._compare_threads(slot, PREFILL_TOKENS)
        self._timings = Timings(prefill, decode)

    def _compare_threads(self, slot: int, tokens: int) -> Generator[None, None, dict[int, float]]:
        works = {
            count: partial(
                self._decode_with, count, SequenceChunk(slot, [DUMMY_TOKEN] * tokens, True)
            )
            for count in self._counts
        }
        return (yield from compare(works, self._seconds))

    def _decode_with(self, threads: int, chunk: SequenceChunk) -> None:
        self._context.threads = Threads(threads, threads)
        self._decode([chunk])

    def _measure_gaps(self) -> Iterator[None]:
        """Time a decode step in one slot and in all."""
        slots = len(self._context.sequence_lengths)
        if slots < 2 or not self._can_truncate or not all(map(self._has_room, range(slots))):
            return
        works = {
            count: partial(
                self._decode, [SequenceChunk(slot, [DUMMY_TOKEN], True) for slot in range(count)]
            )
            for count in (1, slots)
        }
        self._gap_seconds = yield from compare(works, self._seconds)

    def _measure_copies(self) -> Iterator[None]:
        """Time a decode step in an empty slot that the longest sequence was copied to."""
        lengths = self._context.sequence_lengths
        source = max(range(len(lengths)), key=lengths.__getitem__)
        empty = [slot for slot, length in enumerate(lengths) if not length and slot != source]
        if self._context.copy_seconds is None or not empty or not self._has_room(source):
            return
        length, chunk = lengths[source], [SequenceChunk(empty[0], [DUMMY_TOKEN], True)]

        def copy_and_decode() -> None:
            self._context.copy(source, empty[0], 0)
            self._decode(chunk)

        works = {False: partial(self._decode, chunk), True: copy_and_decode}
        self._context.decode([SequenceChunk(source, [DUMMY_TOKEN], False)])  # not to copy nothing
        try:
            self._copy_seconds = yield from compare(works, self._seconds)
        finally:
            self._context.truncate(source, length)

    # -- slots

    def _decode(self, chunks: list[SequenceChunk]) -> None:
        """Compute tokens, and remove them."""
        lengths = list(self._context.sequence_lengths)
        self._context.decode(chunks)
        for chunk in chunks:
            self._context.truncate(chunk.slot, lengths[chunk.slot])

    def _has_room(self, slot: int, tokens: int = 1) -> bool:
        length = self._context.sequence_lengths[slot]
        return length + tokens <= self._context.capacity and (self._can_truncate or not length)

    def _slot_with_room(self, tokens: int) -> int | None:
        """Return the slot with the shortest sequence of those that can be used."""
        lengths = self._context.sequence_lengths
        usable = [slot for slot in range(len(lengths)) if self._has_room(slot, tokens)]
        return min(usable, key=lengths.__getitem__, default=None)
