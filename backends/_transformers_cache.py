"""Keep the keys and values of many chats in one buffer per layer, a row for each chat.

A row is filled from its first column on, however long the others are: a chat joins, leaves and goes
on later without moving the others. What a forward pass reads and writes is set before it by `aim`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

STEP = 256  # columns by which buffers grow


class Aim:
    """The rows and columns of one forward pass, shared by all layers."""

    def __init__(self) -> None:
        self.first, self.last = 0, 1  # rows, the last one excluded
        self.past = 0  # tokens of the longest of these rows before the pass
        self.ends: torch.Tensor | None = None  # column of each row's new token; None: all the same
        self.rows: torch.Tensor | None = None
        self.packed: list[tuple[int, int]] = []  # rows and lengths of whole prompts in one
        self.height, self.width = 1, STEP  # rows and columns that the buffers must have


class RowsLayer(DynamicLayer):
    """The keys and values of one layer: [rows, heads, columns, size of a head]."""

    def __init__(self, aim: Aim) -> None:
        super().__init__()
        self._aim = aim

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens where the pass aims; return all that its rows hold with them.

        key_states, value_states: [rows, heads, new tokens, size of a head].
        """
        aim, new = self._aim, key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if aim.packed:
            self._unpack(key_states, value_states)
            return key_states, value_states
        end = aim.past + new
        rows = slice(aim.first, aim.last)
        if aim.ends is None or aim.rows is None:
            self.keys[rows, :, aim.past : end] = key_states
            self.values[rows, :, aim.past : end] = value_states
        else:
            where = aim.rows.to(self.keys.device), aim.ends.to(self.keys.device)
            self.keys[where[0], :, where[1]] = key_states[:, :, 0]
            self.values[where[0], :, where[1]] = value_states[:, :, 0]
        return self.keys[rows, :, :end], self.values[rows, :, :end]

    def _unpack(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        first = 0
        for row, length in self._aim.packed:
            last = first + length
            self.keys[row, :, :length] = key_states[0, :, first:last]
            self.values[row, :, :length] = value_states[0, :, first:last]
            first = last

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make buffers for what the first pass shows: heads, sizes, number format and device."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._empty(key_states)
        self.values = self._empty(value_states)
        self.is_initialized = True

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        """Return zeros: a masked column counts nothing, unless it holds no number at all."""
        _, heads, _, size = like.shape
        return like.new_zeros(self._aim.height, heads, self._aim.width, size)

    def get_seq_length(self) -> int:
        """Return how many tokens the longest row of the pass had before it."""
        return self._aim.past

    def fit(self) -> None:
        """Let the buffers grow to the size of the aim."""
        if not self.is_initialized:
            return
        height, _, width, _ = self.keys.shape
        if (height, width) != (self._aim.height, self._aim.width):
            self.keys = self._resized(self.keys)
            self.values = self._resized(self.values)

    def _resized(self, old: torch.Tensor) -> torch.Tensor:
        new = self._empty(old)
        new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def shrink(self) -> None:
        """Give the buffers the size of the aim; needs no more memory for it than they have."""
        height, width = self._aim.height, self._aim.width
        for name in ("keys", "values"):
            kept = getattr(self, name)[:height, :, :width].cpu()
            setattr(self, name, None)
            setattr(self, name, kept.to(self.device))

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first columns of a row into another one."""
        for buffer in (self.keys, self.values):
            buffer[target, :, :length] = buffer[source, :, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange two rows, of which only so many columns matter."""
        for buffer in (self.keys, self.values):
            kept = buffer[one, :, :length].clone()
            buffer[one, :, :length] = buffer[other, :, :length]
            buffer[other, :, :length] = kept

    def clear(self, row: int, first: int) -> None:
        """Set a row to zero from this column on."""
        self.keys[row, :, first:] = 0
        self.values[row, :, first:] = 0


class RowsCache(Cache):  # type: ignore[misc]
    """The keys and values of all layers."""

    def __init__(self, layers: int) -> None:
        self.aim = Aim()
        self.rows_layers = [RowsLayer(self.aim) for _ in range(layers)]
        self._has_room = True
        super().__init__(layers=self.rows_layers)

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for so many rows, and for at least so many columns in each."""
        aim = self.aim
        if rows > aim.height or columns > aim.width:
            aim.height, aim.width = max(rows, aim.height), max(_rounded(columns), aim.width)
            self._has_room = False  # until all have: memory may run out on the way
        if not self._has_room:
            for layer in self.rows_layers:
                layer.fit()
            self._has_room = True

    def shrink(self, rows: int, columns: int) -> None:
        """Give back what is not needed for the first rows and columns."""
        aim = self.aim
        aim.height, aim.width = min(max(1, rows), aim.height), min(_rounded(columns), aim.width)
        for layer in self._filled():
            layer.shrink()
        self._has_room = False

    def read(self, row: int, past: int) -> None:
        """Aim at one row, whose prompt goes on after so many tokens."""
        aim = self.aim
        aim.first, aim.last, aim.past, aim.ends, aim.rows = row, row + 1, past, None, None
        aim.packed = []

    def read_packed(self, prompts: list[tuple[int, int]]) -> None:
        """Aim at the rows of whole prompts that are read as one, given with their lengths."""
        self.aim.past, self.aim.packed = 0, prompts

    def extend(self, ends: torch.Tensor, *, past: int, is_even: bool) -> None:
        """Aim at the first rows: each gets one token more at its end.

        ends: the length of each row; past: that of the longest; is_even: that all are the same.
        """
        aim = self.aim
        aim.first, aim.last, aim.past = 0, len(ends), past
        aim.packed = []
        aim.ends = None if is_even else ends
        aim.rows = None if is_even else torch.arange(len(ends), device=ends.device)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of a row into another one."""
        for layer in self._filled():
            layer.copy(source, target, length)

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange two rows, the longer of which has so many tokens."""
        for layer in self._filled():
            layer.swap(one, other, length)

    def clear(self, row: int, first: int) -> None:
        """Forget a row's columns from this one on, where something that is no number may stand."""
        for layer in self._filled():
            layer.clear(row, first)

    def _filled(self) -> list[RowsLayer]:
        return [layer for layer in self.rows_layers if layer.is_initialized]


def _rounded(columns: int) -> int:
    return -(-columns // STEP) * STEP
