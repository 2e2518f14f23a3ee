"""The KV cache of a llama.cpp context: what its slots hold, cut, copied, saved and restored.

For one thread.
"""

# Facts about llama.cpp's KV cache:
# - A sequence can be copied as a whole only, to a whole slot: a part would abort the process.
# - Recurrent models (Mamba and others) keep a state instead of keys and values, which cannot be
#   truncated: the slot is emptied instead.
# - A saved state has of layers with a sliding window what the window still shows at its end. A slot
#   that was restored from it cannot be truncated below that: see _shortest.

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy

from backends.llamacpp.bindings import holding_gil
from backends.llamacpp.vision.layout import Layout

remove_tokens = holding_gil(llama_cpp.llama_memory_seq_rm)
last_position = holding_gil(llama_cpp.llama_memory_seq_pos_max)


class SlotMemory:
    """The sequences in the slots of a context, each with a KV cache of its own."""

    def __init__(self, context: Any, slots: int, *, is_recurrent: bool, has_window: bool) -> None:
        """context: llama.cpp's pointer."""
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self.capacity = int(llama_cpp.llama_n_ctx_seq(context))  # tokens of a slot
        self.sequence_lengths = [0] * slots  # tokens that each slot holds
        self._layout = Layout(slots)
        self._shortest = [0] * slots  # fewest tokens, beside none, that truncate() can leave
        self.can_cut = not has_window and not is_recurrent  # states, when they are restored
        self._is_recurrent = is_recurrent
        self.copy_seconds: float | None = None  # of copy(); None: sequences cannot be copied

    def truncate(self, slot: int, length: int) -> int:
        """Keep a sequence's first `length` tokens, or none where that is impossible.

        Returns the number of tokens that are left.
        """
        length = self._layout.cut(slot, length)
        if length < self._shortest[slot]:
            length = 0
        end = self._layout.position(slot, length)
        removed = remove_tokens(self._memory, slot, end, -1)
        if not (removed and self._ends_with(slot, length)):
            remove_tokens(self._memory, slot, -1, -1)
            length = 0
        if not length:
            self._shortest[slot] = self._layout.cut(slot, 0)
        self.sequence_lengths[slot] = length
        return length

    def _ends_with(self, slot: int, length: int) -> bool:
        """Tell whether a slot's last token is the last of `length` tokens."""
        last = last_position(self._memory, slot)
        least, end = self._layout.least_last(slot, length), self._layout.position(slot, length)
        return bool(least <= last < end)

    def copy(self, source: int, target: int, length: int) -> int:
        """Copy a sequence's first `length` tokens to another slot; return how many that holds."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._shortest[target] = self._shortest[source]
        self._layout.copy(source, target)
        return self.truncate(target, length)

    def clear(self) -> None:
        """Empty all slots, and overwrite their memory, which may take as long as a long prompt."""
        self._clear(overwrite=True)

    def empty(self) -> None:
        """Empty all slots."""
        self._clear(overwrite=False)

    def _clear(self, *, overwrite: bool) -> None:
        llama_cpp.llama_memory_clear(self._memory, overwrite)
        self.sequence_lengths = [0] * len(self.sequence_lengths)
        self._shortest = [0] * len(self.sequence_lengths)
        self._layout.clear()

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

    # -- the states of slots, for the prompt cache: SlotStates

    def kept(self, slot: int, length: int) -> int:
        """Return how many tokens truncate() to this length would probably leave."""
        shortest = self.sequence_lengths[slot] if self._is_recurrent else self._shortest[slot]
        length = self._layout.whole(slot, length)
        return length if length >= shortest else 0

    def state_bytes(self, slot: int) -> int:
        """Return the size of a slot's state."""
        return int(llama_cpp.llama_state_seq_get_size(self._context, slot))

    def save(self, slot: int, length: int) -> Any:
        """Truncate a slot to what kept() returned, and return its state; raises MemoryError."""
        self.truncate(slot, length)
        state = numpy.empty(self.state_bytes(slot), numpy.uint8)
        pointer = _bytes_pointer(state)
        if llama_cpp.llama_state_seq_get_data(self._context, pointer, state.nbytes, slot) == 0:
            raise MemoryError("llama.cpp could not save a chat's state")
        return state

    def restore(self, slot: int, state: Any, tokens: Sequence[int], length: int) -> int:
        """Restore a state of these tokens in a slot, and truncate it to `length` of them.

        Returns the number of tokens that the slot holds, 0 if llama.cpp refuses the state.
        """
        buffer = numpy.frombuffer(state, numpy.uint8)
        pointer = _bytes_pointer(buffer)
        read = llama_cpp.llama_state_seq_set_data(self._context, pointer, buffer.nbytes, slot)
        self._layout.set(slot, tokens)
        if read != buffer.nbytes or not self._ends_with(slot, len(tokens)):
            return self.truncate(slot, 0)
        self._shortest[slot] = 0 if self.can_cut else len(tokens)
        return self.truncate(slot, length)


def _bytes_pointer(buffer: Any) -> Any:
    """Return a numpy array of bytes as llama.cpp's functions take it."""
    return ctypes.cast(buffer.ctypes.data, ctypes.POINTER(ctypes.c_ubyte))
