"""The keys and values of one layer: a buffer in which each slot has columns of its own.

Which slots and columns a forward pass reads and writes is set before it, in ForwardSlots.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

GROWTH = 256  # columns of the smallest buffers, which are doubled when they are full


class ForwardSlots:
    """What a forward pass reads and writes, and the size of the buffers; shared by all layers."""

    def __init__(self) -> None:
        self.first, self.end = 0, 1  # slots; the end is excluded
        self.past_length = 0  # tokens before the pass, of the longest of these slots
        self.lengths: torch.Tensor | None = None  # the same of each slot; None: all are equal
        self.slots: torch.Tensor | None = None  # the slots of `lengths`
        self.packed: list[tuple[int, int]] = []  # slots and lengths of whole prompts in one row
        self.slot_count, self.capacity = 1, GROWTH  # slots and columns of the buffers


class SlotLayer(DynamicLayer):
    """The keys and values of one layer: [slots, heads, columns, head size]."""

    def __init__(self, forward_slots: ForwardSlots) -> None:
        super().__init__()
        self._forward = forward_slots

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens; return the keys and values that the pass attends to.

        key_states, value_states: [sequences, heads, new tokens, head size].
        """
        forward, new = self._forward, key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if forward.packed:
            self._unpack(key_states, value_states)
            return key_states, value_states
        end = forward.past_length + new
        slots = slice(forward.first, forward.end)
        if forward.lengths is None or forward.slots is None:
            self.keys[slots, :, forward.past_length : end] = key_states
            self.values[slots, :, forward.past_length : end] = value_states
        else:
            index = forward.slots.to(self.keys.device), forward.lengths.to(self.keys.device)
            self.keys[index[0], :, index[1]] = key_states[:, :, 0]
            self.values[index[0], :, index[1]] = value_states[:, :, 0]
        return self.keys[slots, :, :end], self.values[slots, :, :end]

    def _unpack(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Write whole prompts, which lie one after the other in one row, to their slots."""
        first = 0
        for slot, length in self._forward.packed:
            end = first + length
            self.keys[slot, :, :length] = key_states[0, :, first:end]
            self.values[slot, :, :length] = value_states[0, :, first:end]
            first = end

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the buffers with the heads, sizes, dtype and device of the first pass."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._zeros(key_states)
        self.values = self._zeros(value_states)
        self.is_initialized = True

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        """Return a buffer. Of zeros: a masked column counts nothing, unless it holds a NaN."""
        _, heads, _, size = like.shape
        return like.new_zeros(self._forward.slot_count, heads, self._forward.capacity, size)

    @property
    def column_bytes(self) -> int:
        """Return the bytes of one column of one slot."""
        return sum(one.nbytes // (one.shape[0] * one.shape[2]) for one in (self.keys, self.values))

    def get_seq_length(self) -> int:
        """Return the tokens before the pass, of the longest of its slots."""
        return self._forward.past_length

    def grow(self) -> None:
        """Grow the buffers to the size that ForwardSlots states."""
        if not self.is_initialized:
            return
        slot_count, _, capacity, _ = self.keys.shape
        if (slot_count, capacity) != (self._forward.slot_count, self._forward.capacity):
            self.keys = self._grown(self.keys)
            self.values = self._grown(self.values)

    def _grown(self, old: torch.Tensor) -> torch.Tensor:
        new = self._zeros(old)
        slots = min(len(old), len(new))
        new[:slots, :, : old.shape[2]] = old[:slots]
        return new

    def shrink(self) -> None:
        """Shrink the buffers to the size that ForwardSlots states, by way of the CPU's memory."""
        slot_count, capacity = self._forward.slot_count, self._forward.capacity
        for name in ("keys", "values"):
            kept = getattr(self, name)[:slot_count, :, :capacity].cpu()
            setattr(self, name, None)
            setattr(self, name, kept.to(self.device))

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first columns of a slot to another one."""
        for buffer in (self.keys, self.values):
            buffer[target, :, :length] = buffer[source, :, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first columns of two slots."""
        for buffer in (self.keys, self.values):
            kept = buffer[one, :, :length].clone()
            buffer[one, :, :length] = buffer[other, :, :length]
            buffer[other, :, :length] = kept

    def head_shape(self, name: str) -> tuple[int, int]:
        """Return the number of heads of keys or values, and their size."""
        _, heads, _, size = getattr(self, name).shape
        return heads, size

    def read(self, name: str, where: int, tokens: int) -> torch.Tensor:
        """Return the first columns of a slot: [heads, columns, head size]."""
        found: torch.Tensor = getattr(self, name)[where, :, :tokens]
        return found

    def write(self, name: str, where: int, numbers: torch.Tensor) -> None:
        """Write the first columns of a slot."""
        getattr(self, name)[where, :, : numbers.shape[1]] = numbers

    def clear(self, slot: int, first: int) -> None:
        """Set a slot's columns from `first` on to zero."""
        self.keys[slot, :, first:] = 0
        self.values[slot, :, first:] = 0
