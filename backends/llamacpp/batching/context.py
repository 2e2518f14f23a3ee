"""llama.cpp's context: token batches of several slots in, logits out.

Knows no requests. For one thread, but for abort().
"""

# Facts about llama.cpp (llama_decode and the KV cache). It aborts the process on invalid input, so
# that every number is checked before.
# - Each slot is a sequence with a KV cache of its own (kv_unified off): attention reads that slot
#   alone. In a unified cache, every token reads what all slots hold.
# - The sequences of a batch are computed in one ubatch if their numbers are consecutive. A gap
#   begins another ubatch, which reads all weights again: see gap_fill.
# - After a failure some sequences hold a part of their new tokens; decode() removes them all.
#
# Gap filling. Slots 0 and 2 decoding, slot 1 idle, would take two ubatches. A dummy token in slot 1
# joins them to one; it is truncated afterwards. That pays while the dummy tokens take less time
# than another ubatch: gap_fill states how many slots of a gap that holds for, as measured at start.

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import llama_cpp
import numpy

from backends.llamacpp.bindings import LOG_CAPTURE, holding_gil
from backends.llamacpp.loading.adapters import NO_ADAPTERS, Adapters
from backends.llamacpp.vision.media import MediaPiece
from backends.llamacpp.vision.media_batch import MediaBatch, attention

from . import context_params
from .context_params import UBATCH_TOKENS, ContextOptions
from .slot_memory import SlotMemory
from .token_batch import SequenceChunk, TokenBatch

SUCCESS, NO_KV_SLOT, ABORTED, ALLOCATION_FAILED = 0, 1, 2, -2  # what llama_decode() returns
ABORT = b"!"  # the first byte of an abort flag that is set
DUMMY_TOKEN = 0  # of a gap; which one does not matter

get_logits = holding_gil(llama_cpp.llama_get_logits)


class Aborted(Exception):
    """Report that abort() ended a computation; its sequences are as before, or empty."""


class DecodeResult(NamedTuple):
    """The logits of the chunks that want them, in the order of the chunks.

    logits: float32 [chunks, vocabulary], valid until the next decode(); positions: of these tokens
    in the batch, by which llama.cpp's samplers find their logits.
    """

    logits: Any
    positions: list[int | None]  # None: of an earlier decode()


class LlamaContext(SlotMemory):
    """A llama.cpp context with a KV cache for `slots` sequences of `length` tokens.

    model: llama.cpp's pointer; vocabulary: its number of tokens; abort_flag: a C string that aborts
    what is computed unless it is empty; adapters: of the model; is_recurrent, has_window: whether
    some layers keep a state, or have a sliding window. Raises StartError if there is not enough
    memory.
    """

    def __init__(
        self,
        model: Any,
        options: ContextOptions,
        *,
        slots: int,
        length: int,
        vocabulary: int,
        abort_flag: ctypes.Array[ctypes.c_char],
        adapters: Adapters = NO_ADAPTERS,
        is_recurrent: bool = False,
        has_window: bool = False,
    ) -> None:
        self._vocabulary, self._abort_flag = vocabulary, abort_flag
        context = context_params.create(
            model, options, slots=slots, length=length, abort_flag=abort_flag
        )
        weakref.finalize(self, llama_cpp.llama_free, context).atexit = False
        super().__init__(context, slots, is_recurrent=is_recurrent, has_window=has_window)
        self.batch_tokens = int(llama_cpp.llama_n_batch(context))  # of one decode()
        self.gap_fill = 0  # slots of a gap that are filled at most
        self.threads = context_params.threads(options)
        self._thread_count = self.threads.decode  # of the last batch
        self._batch = TokenBatch(self.batch_tokens)
        self._adapters, self._choice = adapters, ""

    # -- computing

    def use_adapters(self, choice: str) -> None:
        """Let later decode() calls compute with these adapters; choice: see Adapters.

        Another choice makes llama.cpp build its graphs anew, which takes milliseconds.
        """
        if choice != self._choice:
            llama_cpp.llama_set_adapters_lora(self._context, *self._adapters.arrays(choice))
            self._choice = choice

    def decode(self, chunks: Sequence[SequenceChunk]) -> DecodeResult:
        """Compute the next tokens of several sequences; chunks: in ascending order of their slots.

        Raises ValueError for input that would abort the process, Aborted after abort(),
        MemoryError, or RuntimeError with llama_decode()'s result. The sequences are then as
        before, or empty: sequence_lengths tells.
        """
        if chunks and chunks[0].media is not None:
            return self._decode_media(chunks, chunks[0].media)
        gaps = self._gap_slots(chunks)
        if gaps:
            dummies = [SequenceChunk(slot, [DUMMY_TOKEN], False) for slot in gaps]
            chunks = sorted([*chunks, *dummies], key=lambda chunk: chunk.slot)
        self._check(chunks)
        positions = self._batch.fill(chunks, self._layout.positions(self.sequence_lengths))
        self._compute(self._batch.batch, chunks)
        for slot in gaps:
            self.truncate(slot, self.sequence_lengths[slot] - 1)
        return DecodeResult(self._logits(len(positions)), positions)

    def _decode_media(self, chunks: Sequence[SequenceChunk], piece: MediaPiece) -> DecodeResult:
        """Compute a picture's tokens, or a part of them, which must be the only chunk."""
        self._check(chunks)
        (chunk,) = chunks
        slot, span = chunk.slot, piece.span
        if not piece.at:
            self._layout.add(slot, span)
        batch = MediaBatch(
            piece,
            slot=slot,
            position=self._layout.position(slot, span.start),
            wants_logits=chunk.wants_logits,
        )
        with attention(self._context, sees_all=piece.sees_all):
            self._compute(batch.batch, chunks)
        count = int(chunk.wants_logits)
        return DecodeResult(self._logits(count), [len(chunk.tokens) - 1] * count)

    def _compute(self, batch: Any, chunks: Sequence[SequenceChunk]) -> None:
        """Compute a llama_batch of these chunks; raises what decode() does."""
        self._use_threads(is_prefill=any(len(chunk.tokens) > 1 for chunk in chunks))
        LOG_CAPTURE.first_error = ""
        result = llama_cpp.llama_decode(self._context, batch)
        if result != SUCCESS:
            for chunk in chunks:
                self.truncate(chunk.slot, self.sequence_lengths[chunk.slot])
            raise _failure(result)
        llama_cpp.llama_synchronize(self._context)  # releases the GIL; get_logits() does not
        for chunk in chunks:
            self.sequence_lengths[chunk.slot] += len(chunk.tokens)

    def _use_threads(self, *, is_prefill: bool) -> None:
        """Compute the next batch with as many threads as `threads` says.

        llama.cpp itself goes by the tokens of a batch: it takes a decode step of eight chats for a
        prefill.
        """
        count = self.threads.prefill if is_prefill else self.threads.decode
        if count != self._thread_count:
            self._thread_count = count
            llama_cpp.llama_set_n_threads(self._context, count, count)

    def _check(self, chunks: Sequence[SequenceChunk]) -> None:
        """Raise ValueError for input that would abort the process."""
        slots = [-1, *(chunk.slot for chunk in chunks), len(self.sequence_lengths)]
        if not all(one < other for one, other in itertools.pairwise(slots)):
            raise ValueError(f"slots {slots[1:-1]} of {len(self.sequence_lengths)}")
        if not 0 < sum(len(chunk.tokens) for chunk in chunks) <= self.batch_tokens:
            raise ValueError(f"more than {self.batch_tokens} tokens at once, or none")
        for slot, tokens, _, media in chunks:
            if self.sequence_lengths[slot] + len(tokens) > self.capacity:
                raise ValueError(f"slot {slot} holds {self.capacity} tokens and no more")
            if media is not None:
                self._check_media(slot, len(tokens), media)
            elif not (tokens and 0 <= min(tokens) <= max(tokens) < self._vocabulary):
                raise ValueError(f"slot {slot} was given something that is no token")

    def _check_media(self, slot: int, count: int, piece: MediaPiece) -> None:
        """Raise ValueError for a picture that would abort the process."""
        if self.sequence_lengths[slot] != piece.span.start + piece.at:
            raise ValueError(f"slot {slot} was given a picture that belongs elsewhere")
        if len(piece.embeddings) != count or (piece.sees_all and count > UBATCH_TOKENS):
            raise ValueError(f"slot {slot} was given a picture of {count} tokens")

    def _logits(self, count: int) -> Any:
        if not count:
            return numpy.empty((0, self._vocabulary), numpy.float32)
        pointer = get_logits(self._context)
        return numpy.ctypeslib.as_array(pointer, shape=(count, self._vocabulary))

    def _gap_slots(self, chunks: Sequence[SequenceChunk]) -> list[int]:
        """Return the slots to fill between those of the chunks."""
        found: list[int] = []
        if self.gap_fill:
            for one, other in itertools.pairwise(chunks):
                gap = range(one.slot + 1, other.slot)
                if len(gap) <= self.gap_fill and all(map(self._takes_dummy, gap)):
                    found += gap
        return found

    def _takes_dummy(self, slot: int) -> bool:
        """Tell whether a slot has room for another token, and does not end within a picture."""
        length = self.sequence_lengths[slot]
        return length < self.capacity and self._layout.whole(slot, length) == length

    def sample(self, sampler: Any, position: int) -> int:
        """Apply a llama.cpp sampler to the logits of a position of the last DecodeResult."""
        token: int = llama_cpp.llama_sampler_sample(sampler, self._context, position)
        return token

    # -- aborting

    def abort(self) -> None:
        """End the decode() under way, and all later ones, with Aborted; from any thread."""
        self._abort_flag[0] = ABORT

    def clear_abort(self) -> None:
        """Let later decode() calls compute again."""
        self._abort_flag[0] = b"\0"


def _failure(result: int) -> Exception:
    if result == ABORTED:
        return Aborted()
    if result in (NO_KV_SLOT, ALLOCATION_FAILED):
        return MemoryError(f"llama_decode() returned {result}")
    return RuntimeError(f"llama_decode() returned {result}: {LOG_CAPTURE.first_error}")
