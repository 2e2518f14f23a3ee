"""llama.cpp's context: token batches of several slots in, logits out.

Knows no requests. For one thread, but for abort().
"""

# Facts about llama.cpp (llama_decode and the KV cache). It aborts the process on invalid input, so
# that every number is checked before.
# - Each slot is a sequence with a KV cache of its own (kv_unified off): attention reads that slot
#   alone. In a unified cache, every token reads what all slots hold.
# - The sequences of a batch are computed in one ubatch if their numbers are consecutive. A gap
#   begins another ubatch, which reads all weights again: see gap_fill.
# - A sequence can be copied as a whole only, to a whole slot: a part would abort the process.
# - After a failure some sequences hold a part of their new tokens; decode() removes them all.
# - Recurrent models (Mamba and others) keep a state instead of keys and values, which cannot be
#   truncated: the slot is emptied instead.
# - A saved state has of layers with a sliding window what the window still shows at its end. A slot
#   that was restored from it cannot be truncated below that: see _shortest.
#
# Gap filling. Slots 0 and 2 decoding, slot 1 idle, would take two ubatches. A dummy token in slot 1
# joins them to one; it is truncated afterwards. That pays while the dummy tokens take less time
# than another ubatch: gap_fill states how many slots of a gap that holds for, as measured at start.

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import llama_cpp
import numpy

from kuwa_min.errors import StartError

from .bindings import LOG_CAPTURE, cores, holding_gil

BATCH_TOKENS = 2048  # in one llama_decode()
UBATCH_TOKENS = 512  # of them computed at once
PADDING = 256  # tokens: llama.cpp rounds a slot's capacity up to a multiple of it
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
SUCCESS, NO_KV_SLOT, ABORTED, ALLOCATION_FAILED = 0, 1, 2, -2  # what llama_decode() returns
ABORT = b"!"  # the first byte of an abort flag that is set
DUMMY_TOKEN = 0  # of a gap; which one does not matter

get_logits = holding_gil(llama_cpp.llama_get_logits)
remove_tokens = holding_gil(llama_cpp.llama_memory_seq_rm)
last_position = holding_gil(llama_cpp.llama_memory_seq_pos_max)


class Aborted(Exception):
    """Report that abort() ended a computation; its sequences are as before, or empty."""


@dataclass(frozen=True)
class ContextOptions:
    """How a context computes; named as the command line names it."""

    threads: int | None  # None: one for each core
    flash_attn: str  # a key of FLASH_ATTENTION
    cache_type: str  # of keys and values: "f16", "q8_0"...


class SequenceChunk(NamedTuple):
    """The next tokens of a slot's sequence in a batch."""

    slot: int
    tokens: list[int]
    wants_logits: bool  # after the last token


class DecodeResult(NamedTuple):
    """The logits of the chunks that want them, in the order of the chunks.

    logits: float32 [chunks, vocabulary], valid until the next decode(); positions: of these tokens
    in the batch, by which llama.cpp's samplers find their logits.
    """

    logits: Any
    positions: list[int]


class LlamaContext:
    """A llama.cpp context with a KV cache for `slots` sequences of `length` tokens.

    model: llama.cpp's pointer; vocabulary: its number of tokens; abort_flag: a text in C's memory,
    which aborts what is computed unless it is empty. Raises StartError if there is not enough
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
        is_recurrent: bool = False,
        has_window: bool = False,
    ) -> None:
        self._vocabulary, self._abort_flag = vocabulary, abort_flag
        LOG_CAPTURE.first_error = ""
        params = self._params(options, slots, length)
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise StartError(_no_context(slots, length))
        weakref.finalize(self, llama_cpp.llama_free, self._context).atexit = False
        self._memory = llama_cpp.llama_get_memory(self._context)
        self.capacity = int(llama_cpp.llama_n_ctx_seq(self._context))  # tokens of a slot
        self.batch_tokens = int(llama_cpp.llama_n_batch(self._context))  # of one decode()
        self.sequence_lengths = [0] * slots  # tokens that each slot holds
        self._shortest = [0] * slots  # tokens that truncate() can leave in each, but for none
        self.can_cut = not has_window and not is_recurrent  # restored states
        self._is_recurrent = is_recurrent
        self.gap_fill = 0  # slots of a gap that are filled at most
        self.copy_seconds: float | None = None  # of copy(); None: sequences cannot be copied
        self._make_batch()

    def _params(self, options: ContextOptions, slots: int, length: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = slots * (-(-length // PADDING) * PADDING)
        params.n_batch, params.n_ubatch = BATCH_TOKENS, UBATCH_TOKENS
        params.n_seq_max, params.kv_unified = slots, False
        params.n_threads = params.n_threads_batch = options.threads or cores()
        params.flash_attn_type = FLASH_ATTENTION[options.flash_attn]
        kv_type = getattr(llama_cpp, f"GGML_TYPE_{options.cache_type.upper()}")
        params.type_k = params.type_v = kv_type
        params.no_perf = True
        # The callback that llama.cpp calls between operations is strlen(flag): a C function that
        # tells without the GIL whether the flag is set.
        strlen = ctypes.CDLL(None).strlen
        params.abort_callback = ctypes.cast(strlen, llama_cpp.ggml_abort_callback)
        params.abort_callback_data = ctypes.cast(self._abort_flag, ctypes.c_void_p)
        return params

    def _make_batch(self) -> None:
        """Allocate the arrays of a llama_batch, which every decode() fills anew."""
        self._tokens, self._positions, self._slots, ones = (
            numpy.zeros(self.batch_tokens, numpy.int32) for _ in range(4)
        )
        ones[:] = 1
        self._wants_logits = numpy.zeros(self.batch_tokens, numpy.int8)
        offsets = numpy.arange(self.batch_tokens, dtype=numpy.uintp) * 4
        slot_pointers = self._slots.ctypes.data + offsets
        self._referenced = (ones, slot_pointers)
        arrays = {
            "token": self._tokens,
            "pos": self._positions,
            "logits": self._wants_logits,
            "n_seq_id": ones,
            "seq_id": slot_pointers,
        }
        types = dict(llama_cpp.llama_batch._fields_)
        self._batch = llama_cpp.llama_batch()
        for name, array in arrays.items():
            setattr(self._batch, name, ctypes.cast(array.ctypes.data, types[name]))

    # -- computing

    def decode(self, chunks: Sequence[SequenceChunk]) -> DecodeResult:
        """Compute the next tokens of several sequences; chunks: in ascending order of their slots.

        Raises ValueError for input that would abort the process, Aborted after abort(),
        MemoryError, or RuntimeError with llama_decode()'s result. The sequences are then as
        before, or empty: sequence_lengths tells.
        """
        gaps = self._gap_slots(chunks)
        if gaps:
            dummies = [SequenceChunk(slot, [DUMMY_TOKEN], False) for slot in gaps]
            chunks = sorted([*chunks, *dummies], key=lambda chunk: chunk.slot)
        self._check(chunks)
        positions = self._fill_batch(chunks)
        LOG_CAPTURE.first_error = ""
        result = llama_cpp.llama_decode(self._context, self._batch)
        if result != SUCCESS:
            for chunk in chunks:
                self.truncate(chunk.slot, self.sequence_lengths[chunk.slot])
            raise _failure(result)
        llama_cpp.llama_synchronize(self._context)  # releases the GIL; get_logits() does not
        for chunk in chunks:
            self.sequence_lengths[chunk.slot] += len(chunk.tokens)
        for slot in gaps:
            self.truncate(slot, self.sequence_lengths[slot] - 1)
        return DecodeResult(self._logits(len(positions)), positions)

    def _check(self, chunks: Sequence[SequenceChunk]) -> None:
        """Raise ValueError for input that would abort the process."""
        slots = [-1, *(chunk.slot for chunk in chunks), len(self.sequence_lengths)]
        if not all(one < other for one, other in itertools.pairwise(slots)):
            raise ValueError(f"slots {slots[1:-1]} of {len(self.sequence_lengths)}")
        if not 0 < sum(len(chunk.tokens) for chunk in chunks) <= self.batch_tokens:
            raise ValueError(f"more than {self.batch_tokens} tokens at once, or none")
        for slot, tokens, _ in chunks:
            if self.sequence_lengths[slot] + len(tokens) > self.capacity:
                raise ValueError(f"slot {slot} holds {self.capacity} tokens and no more")
            if not (tokens and 0 <= min(tokens) <= max(tokens) < self._vocabulary):
                raise ValueError(f"slot {slot} was given something that is no token")

    def _fill_batch(self, chunks: Sequence[SequenceChunk]) -> list[int]:
        """Write the chunks into the batch; return the positions in it whose logits are wanted."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        wanted: list[int] = []
        for slot, chunk_tokens, wants_logits in chunks:
            start, count = self.sequence_lengths[slot], len(chunk_tokens)
            tokens += chunk_tokens
            positions += range(start, start + count)
            slots += [slot] * count
            if wants_logits:
                wanted.append(len(tokens) - 1)
        count = len(tokens)
        self._tokens[:count], self._positions[:count], self._slots[:count] = (
            tokens,
            positions,
            slots,
        )
        self._wants_logits[:count] = 0
        self._wants_logits[wanted] = 1
        self._batch.n_tokens = count
        return wanted

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
                has_room = all(self.sequence_lengths[slot] < self.capacity for slot in gap)
                if len(gap) <= self.gap_fill and has_room:
                    found += gap
        return found

    def sample(self, sampler: Any, position: int) -> int:
        """Apply a llama.cpp sampler to the logits of a position of the last DecodeResult."""
        token: int = llama_cpp.llama_sampler_sample(sampler, self._context, position)
        return token

    # -- the KV cache

    def truncate(self, slot: int, length: int) -> int:
        """Keep a sequence's first `length` tokens, or none where that is impossible.

        Returns the number of tokens that are left.
        """
        if length < self._shortest[slot]:
            length = 0
        removed = remove_tokens(self._memory, slot, length, -1)
        if not removed or last_position(self._memory, slot) != length - 1:
            remove_tokens(self._memory, slot, -1, -1)
            length = 0
        if not length:
            self._shortest[slot] = 0
        self.sequence_lengths[slot] = length
        return length

    def copy(self, source: int, target: int, length: int) -> int:
        """Copy a sequence's first `length` tokens to another slot; return how many that holds."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._shortest[target] = self._shortest[source]
        return self.truncate(target, length)

    def clear(self) -> None:
        """Empty all slots, and overwrite their memory."""
        llama_cpp.llama_memory_clear(self._memory, True)
        self.sequence_lengths = [0] * len(self.sequence_lengths)
        self._shortest = [0] * len(self.sequence_lengths)

    def reset(self, slots: Sequence[int]) -> None:
        """Empty slots that hold NaNs, and overwrite their memory.

        NaNs spread even from memory that is marked as free. Where sequences cannot be copied, all
        slots are emptied.
        """
        good = [slot for slot in range(len(self.sequence_lengths)) if slot not in slots]
        if self.copy_seconds is None or not good:
            return self.clear()
        for slot in slots:
            self.copy(good[0], slot, 0)
        return None

    # -- the states of slots, for the prompt cache: RowStates

    def kept(self, slot: int, length: int) -> int:
        """Return how many tokens truncate() to this length would leave, as far as is known."""
        shortest = self.sequence_lengths[slot] if self._is_recurrent else self._shortest[slot]
        return length if length >= shortest else 0

    def state_bytes(self, slot: int) -> int:
        """Return the size of a slot's state."""
        return int(llama_cpp.llama_state_seq_get_size(self._context, slot))

    def save(self, slot: int) -> Any:
        """Return a slot's state; raises MemoryError."""
        state = numpy.empty(self.state_bytes(slot), numpy.uint8)
        pointer = _bytes_pointer(state)
        if llama_cpp.llama_state_seq_get_data(self._context, pointer, state.nbytes, slot) == 0:
            raise MemoryError("llama.cpp could not save a chat's state")
        return state

    def restore(self, slot: int, state: Any, tokens: int, length: int) -> int:
        """Restore a state of `tokens` tokens in a slot, and truncate it to `length`.

        Returns the number of tokens that the slot holds, 0 if llama.cpp refuses the state.
        """
        buffer = numpy.frombuffer(state, numpy.uint8)
        pointer = _bytes_pointer(buffer)
        read = llama_cpp.llama_state_seq_set_data(self._context, pointer, buffer.nbytes, slot)
        if read != buffer.nbytes or last_position(self._memory, slot) != tokens - 1:
            return self.truncate(slot, 0)
        self._shortest[slot] = 0 if self.can_cut else tokens
        return self.truncate(slot, length)

    # -- aborting

    def abort(self) -> None:
        """End the decode() under way, and all later ones, with Aborted; from any thread."""
        self._abort_flag[0] = ABORT

    def clear_abort(self) -> None:
        """Let later decode() calls compute again."""
        self._abort_flag[0] = b"\0"


def _bytes_pointer(buffer: Any) -> Any:
    """Return a numpy array of bytes as llama.cpp's functions take it."""
    return ctypes.cast(buffer.ctypes.data, ctypes.POINTER(ctypes.c_ubyte))


def _failure(result: int) -> Exception:
    if result == ABORTED:
        return Aborted()
    if result in (NO_KV_SLOT, ALLOCATION_FAILED):
        return MemoryError(f"llama_decode() returned {result}")
    return RuntimeError(f"llama_decode() returned {result}: {LOG_CAPTURE.first_error}")


def _no_context(slots: int, length: int) -> str:
    chats = "one chat" if slots == 1 else f"each of {slots} chats"
    return (
        f"llama.cpp cannot hold {length:,} tokens of {chats}: "
        f"{LOG_CAPTURE.first_error[:200] or 'not enough memory'}; lower --context_window or "
        "--concurrent_req_limit, or choose another --cache_type"
    )
