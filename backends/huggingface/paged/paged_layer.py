"""The keys and values of one layer: a buffer of pages, which belong to slots by the page tables.

Where a forward pass writes, and what it attends to, is set before it, in ForwardPages.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from .attention import Pass, current
from .page_tables import PAGE

FIRST_PAGES = 8  # of the smallest buffers, which are doubled when they are full


class ForwardPages:
    """What a forward pass reads and writes; shared by all layers."""

    def __init__(self) -> None:
        self.count = FIRST_PAGES  # pages of the buffers
        self.past_length = 0  # tokens before the pass, of the longest sequence
        self.places: torch.Tensor  # columns of all pages, where the new tokens are written
        self.current: Pass


class PagedLayer(DynamicLayer):
    """The keys and values of one layer: [pages, columns, heads, head size]."""

    def __init__(self, pages: ForwardPages) -> None:
        super().__init__()
        self._pages = pages

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens; return all pages.

        key_states, value_states: [rows, heads, new tokens, head size].
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            flat = states.transpose(1, 2).flatten(0, 1)
            buffer.flatten(0, 1)[self._pages.places] = flat
        current.value = self._pages.current
        return self.keys, self.values

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the buffers with the heads, sizes, dtype and device of the first pass."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            one.new_zeros(self._pages.count, PAGE, one.shape[1], one.shape[3])
            for one in (key_states, value_states)
        )
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Return the tokens before the pass, of the longest of its sequences."""
        return self._pages.past_length

    def grow(self) -> None:
        """Grow the buffers to the size that ForwardPages states."""
        if self.is_initialized and len(self.keys) < self._pages.count:
            self.keys, self.values = map(self._grown, (self.keys, self.values))

    def _grown(self, old: torch.Tensor) -> torch.Tensor:
        new = old.new_zeros(self._pages.count, *old.shape[1:])
        new[: len(old)] = old
        return new

    def keep(self, pages: list[int]) -> None:
        """Keep these pages alone, in this order, by way of the CPU's memory."""
        for name in ("keys", "values"):
            kept = getattr(self, name)[pages].cpu()
            setattr(self, name, None)
            setattr(self, name, kept.to(self.device))

    def head_shape(self, name: str) -> tuple[int, int]:
        """Return the number of heads of keys or values, and their size."""
        *_, heads, size = getattr(self, name).shape
        return heads, size

    def read(self, name: str, where: torch.Tensor, tokens: int) -> torch.Tensor:
        """Return these columns of all pages: [heads, columns, head size]."""
        found: torch.Tensor = getattr(self, name).flatten(0, 1)[where]
        return found.transpose(0, 1)

    def write(self, name: str, where: torch.Tensor, numbers: torch.Tensor) -> None:
        """Write these columns of all pages."""
        buffer = getattr(self, name)
        buffer.flatten(0, 1)[where] = numbers.transpose(0, 1).to(buffer.device)

    def copy(self, source: int, target: int) -> None:
        """Copy a page."""
        for buffer in (self.keys, self.values):
            buffer[target] = buffer[source]
