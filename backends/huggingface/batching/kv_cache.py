"""The KV cache of a batch: which slots and columns a forward pass uses, and how buffers grow.

A slot is filled from its first column on, however long the others are, so that sequences join and
leave without moving those of others. The buffers themselves are in slot_layer.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import torch
from transformers import Cache

from backends.huggingface.device import cards
from backends.huggingface.paged.page_tables import Write

from . import host_states
from .slot_layer import GROWTH, ForwardSlots, SlotLayer

FREE_SHARE = 0.5  # of the free memory that slots may take before they are needed


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
