"""The KV cache of a batch: keys and values of all slots in one buffer per layer.

A slot is filled from its first column on, however long the others are, so that sequences join and
leave without moving those of others. Which slots and columns a forward pass reads and writes is set
before it, in ForwardSlots.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from backends.huggingface.device import cards
from backends.huggingface.paged.page_tables import Write

from . import host_states

FREE_SHARE = 0.5  # of the free memory that slots may take before they are needed

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


class SlotCache(Cache):  # type: ignore[misc]
    """The keys and values of all layers, as forward() takes them.

    Before each forward pass: reserve(), then one of prefill(), packed_prefill() and decode().
    """

    def __init__(self, layers: int, *, context_length: int = 0) -> None:
        """Create empty buffers. context_length: more columns are never reserved ahead."""
        self._forward = ForwardSlots()
        self._context_length = context_length
        self._is_memory_short = False
        self._needed_slots = 1
        self.buffers = object()  # another one whenever buffers moved
        self._slot_layers = [SlotLayer(self._forward) for _ in range(layers)]
        self._is_grown = True  # all layers have the size that ForwardSlots states
        super().__init__(layers=self._slot_layers)

    def reserve(self, slots: int, writes: Iterable[Write]) -> None:
        """Make room for a number of slots, and for what the next pass writes to them."""
        self._needed_slots = max(slots, self._needed_slots)
        self._reserve(slots, max((end for _, _, end in writes), default=0))

    def _reserve(self, slots: int, columns: int) -> None:
        """Grow the buffers to a number of slots, and of columns in each, if they are smaller."""
        forward = self._forward
        if slots > forward.slot_count or columns > forward.capacity:
            if columns > forward.capacity:
                forward.capacity = self._grown_capacity(columns)
                if not self._has_room(forward.slot_count):
                    forward.slot_count = self._needed_slots  # without those reserved ahead
            forward.slot_count = max(slots, forward.slot_count)
            self._is_grown = False
        if not self._is_grown:  # also after memory ran out between two layers
            for layer in self._slot_layers:
                layer.grow()
            self._is_grown = True
            self.buffers = object()

    def reserve_ahead(self, slots: int) -> None:
        """Reserve more slots than are needed so far, so that buffers do not move for them.

        Not where that takes much of the free memory, or memory ran out before.
        """
        if not self._is_memory_short and self._has_room(slots):
            self._reserve(slots, 0)

    def _has_room(self, slots: int) -> bool:
        """Tell whether buffers of this many slots leave half of the free memory to others."""
        layers = self._initialized()
        if not layers:
            return True
        column = sum(layer.column_bytes for layer in layers)
        now = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
        needed = column * slots * self._forward.capacity
        return needed - now <= FREE_SHARE * cards.free_bytes(layers[0].device)

    @property
    def capacity(self) -> int:
        """Return the columns of the buffers."""
        return self._forward.capacity

    @property
    def max_capacity(self) -> int:
        """Return the columns that the longest possible sequence needs."""
        return _rounded(self._context_length) or sys.maxsize

    def _grown_capacity(self, columns: int) -> int:
        """Return the columns to grow to: twice as many, so that buffers seldom move.

        Only what is needed where memory ran out before.
        """
        if self._is_memory_short:
            return _rounded(columns)
        capacity = self._forward.capacity
        while capacity < columns:
            capacity *= 2
        return max(_rounded(columns), min(capacity, self.max_capacity))

    def shrink(self, slots: int, columns: int) -> None:
        """Free what is not needed for the first slots and columns."""
        forward = self._forward
        self._needed_slots = max(1, slots)
        forward.slot_count = min(self._needed_slots, forward.slot_count)
        forward.capacity = min(_rounded(columns), forward.capacity)
        for layer in self._initialized():
            layer.shrink()
        self._is_grown, self._is_memory_short = False, True

    def prefill(self, slot: int, past_length: int) -> None:
        """Prepare a pass that prefills one slot, whose first `past_length` tokens are computed."""
        forward = self._forward
        forward.first, forward.end, forward.past_length = slot, slot + 1, past_length
        forward.lengths = forward.slots = None
        forward.packed = []

    def packed_prefill(self, prompts: list[tuple[int, int]]) -> None:
        """Prepare a pass over whole prompts in one row; prompts: (slot, tokens) of each."""
        self._forward.past_length, self._forward.packed = 0, prompts

    def decode(
        self,
        lengths: torch.Tensor,
        *,
        longest: int,
        is_even: bool,
        tables: torch.Tensor | None = None,
    ) -> None:
        """Prepare a decode step of the first slots, one new token each.

        lengths: tokens [slots] before the pass; longest: the largest; is_even: all are equal.
        """
        forward = self._forward
        forward.first, forward.end, forward.past_length = 0, len(lengths), longest
        forward.packed = []
        forward.lengths = None if is_even else lengths
        forward.slots = None if is_even else torch.arange(len(lengths), device=lengths.device)

    def table(self, slots: int, rows: int, columns: int) -> list[list[int]]:
        """Return [], as columns lie where they are: see PagedCache."""
        return []

    def padding_ends(self, ends: list[int]) -> list[int]:
        """Return where rows of a step that are too many write; ends: tokens of idle slots."""
        return ends

    def truncate(self, slot: int, length: int) -> None:
        """Do nothing: what a slot has behind its first tokens is overwritten."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of a slot to another one."""
        self._reserve(1 + max(source, target), length)
        for layer in self._initialized():
            layer.copy(source, target, length)

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange two slots; length: tokens of the longer one."""
        for layer in self._initialized():
            layer.swap(one, other, length)

    def state_bytes(self, length: int) -> int:
        """Return the bytes of host memory that save() takes for `length` tokens."""
        return host_states.state_bytes(self._slot_layers, length)

    def save(self, slot: int, length: int) -> Any:
        """Return the first tokens of a slot as a numpy array of bytes in host memory."""
        return host_states.save(self._slot_layers, slot, length)

    def restore(self, slot: int, state: Any, tokens: int, length: int) -> bool:
        """Write the first `length` of a saved state's tokens to a slot; false: it does not fit."""
        self._reserve(slot + 1, length)
        host_states.allocate(self._slot_layers, host_states.read_layout(state))
        return host_states.restore(self._slot_layers, slot, state, tokens, length)

    def clear(self, slot: int, first: int) -> None:
        """Set a slot's columns from `first` on to zero: NaNs there would spread to others."""
        for layer in self._initialized():
            layer.clear(slot, first)

    def clear_not_finite(self, highest: list[float], first: int, ends: list[int]) -> None:
        """Clear what a step wrote to the slots from `first` on if their logits overflowed.

        highest: the largest logit of every slot; ends: where those from `first` on were written.
        """
        for slot, end in enumerate(ends, first):
            if not math.isfinite(highest[slot]):
                self.clear(slot, end)

    def _initialized(self) -> list[SlotLayer]:
        return [layer for layer in self._slot_layers if layer.is_initialized]


def _rounded(columns: int) -> int:
    return -(-columns // GROWTH) * GROWTH
