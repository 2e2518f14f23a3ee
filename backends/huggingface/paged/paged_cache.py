"""The KV cache in pages: each slot has as many as its tokens need, and slots may share them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from typing import Any

import torch
from transformers import Cache

from backends.huggingface.batching import host_states

from .attention import Pass
from .kernels import Attention
from .page_tables import PAGE, SPARE, PageTables, Write, pages_of
from .paged_layer import ForwardPages, PagedLayer


class PagedCache(Cache):  # type: ignore[misc]
    """The keys and values of all layers, with the methods of SlotCache.

    Before each forward pass: reserve(), then one of prefill(), packed_prefill() and decode().
    """

    def __init__(
        self,
        attention: Attention,
        windows: tuple[int, ...],
        device: torch.device,
        *,
        context_length: int = 0,
    ) -> None:
        """Create empty buffers. windows: of each layer, 0 for none."""
        self._attention, self._windows, self._device = attention, windows, device
        self._context_length = context_length
        self._pages, self._tables = ForwardPages(), PageTables()
        self._writes: list[Write] = []  # of the next pass
        self._is_grown, self._is_memory_short = True, False
        self.buffers = object()  # another one whenever buffers moved
        self._paged_layers = [PagedLayer(self._pages) for _ in windows]
        super().__init__(layers=self._paged_layers)

    @property
    def max_capacity(self) -> int:
        """Return the columns that the longest possible sequence needs."""
        return pages_of(self._context_length) * PAGE or sys.maxsize

    @property
    def capacity(self) -> int:
        """Return the columns that a slot may have: there is room for as many as are reserved."""
        return self.max_capacity

    def reserve(self, slots: int, writes: Iterable[Write]) -> None:
        """Give slots pages of their own for what the next pass writes to them."""
        self._writes = writes = list(writes)
        self._grow(slots, self._tables.needed(writes))
        for source, target in self._tables.write(writes):
            for layer in self._initialized():
                layer.copy(source, target)

    def reserve_ahead(self, slots: int) -> None:
        """Have a page for each slot to spare, so that buffers do not move soon.

        Not where memory ran out before.
        """
        if not self._is_memory_short:
            self._grow(slots, self._tables.pages + slots)

    def _grow(self, slots: int, needed: int) -> None:
        """Grow the buffers if they have fewer pages than are needed."""
        if needed > self._pages.count:
            self._pages.count = max(needed, self._ahead(slots))
            self._is_grown = False
        if not self._is_grown:  # also after memory ran out between two layers
            for layer in self._paged_layers:
                layer.grow()
            self._is_grown, self.buffers = True, object()

    def _ahead(self, slots: int) -> int:
        """Return the pages to grow to, though fewer are needed: twice as many, or one a slot.

        The latter where memory ran out before.
        """
        if self._is_memory_short:
            return self._pages.count + slots
        return min(2 * self._pages.count, 1 + slots * pages_of(self._context_length))

    def shrink(self, slots: int, columns: int) -> None:
        """Free all pages but those of the first slots."""
        kept = self._tables.compact(slots)
        self._pages.count = len(kept)
        for layer in self._initialized():
            layer.keep(kept)
        self._is_grown, self._is_memory_short = False, True

    # -- before a pass

    def prefill(self, slot: int, past_length: int) -> None:
        """Prepare a pass over the tokens of one slot that were reserved."""
        self._prepare(self._writes)

    def packed_prefill(self, prompts: list[tuple[int, int]]) -> None:
        """Prepare a pass over the prompts that were reserved, in one row."""
        self._prepare(self._writes)

    def _prepare(self, writes: list[Write]) -> None:
        """Prepare a pass over one row, in which the new tokens of these slots come in turn."""
        counts = [end - first for _, first, end in writes]
        ends = [end for *_, end in writes]
        tables = self._tables.rows((slot for slot, *_ in writes), max(ends))
        places = [
            table[column // PAGE] * PAGE + column % PAGE
            for table, (_, first, end) in zip(tables, writes, strict=True)
            for column in range(first, end)
        ]
        self._pages.past_length = max(first for _, first, _ in writes)
        self._pages.places = torch.tensor(places, device=self._device)
        self._pages.current = Pass(
            self._attention,
            self._windows,
            starts=self._numbers([0, *itertools.accumulate(counts)]),
            lengths=self._numbers(ends),
            tables=self._numbers(tables),
            max_tokens=max(counts),
            max_length=max(ends),
        )

    def decode(
        self,
        lengths: torch.Tensor,
        *,
        longest: int,
        is_even: bool,
        tables: torch.Tensor | None = None,
    ) -> None:
        """Prepare a decode step of the first slots, one new token each.

        lengths: tokens [slots] before the pass; longest: the largest, at least; tables: the pages
        [pages, slots] as table() has them, on the device.
        """
        if tables is None:
            pages = self._numbers(self._tables.rows(range(len(lengths)), longest + 1))
        else:
            pages = tables.T.to(torch.int32).contiguous()
        own = pages.gather(1, (lengths // PAGE)[:, None])[:, 0]
        self._pages.past_length = longest
        self._pages.places = own * PAGE + lengths % PAGE
        self._pages.current = Pass(
            self._attention,
            self._windows,
            starts=torch.arange(len(lengths) + 1, dtype=torch.int32, device=lengths.device),
            lengths=(lengths + 1).to(torch.int32),
            tables=pages,
            max_tokens=1,
            max_length=longest + 1,
        )

    def table(self, slots: int, rows: int, columns: int) -> list[list[int]]:
        """Return the pages [pages, rows] of the first slots' first columns, for decode().

        Rows behind the slots have the spare page.
        """
        tables = self._tables.rows(range(slots), columns)
        tables += [[SPARE] * pages_of(columns)] * (rows - slots)
        return [list(pages) for pages in zip(*tables, strict=True)]

    def padding_ends(self, ends: list[int]) -> list[int]:
        """Return where rows of a step that are too many write: they have the spare page."""
        return [0] * len(ends)

    def _numbers(self, numbers: Any) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=self._device)

    # -- slots

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a slot share the first tokens of another one."""
        self._tables.share(source, target, length)

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange two slots."""
        self._tables.swap(one, other)

    def state_bytes(self, length: int) -> int:
        """Return the bytes of host memory that save() takes for `length` tokens."""
        return host_states.state_bytes(self._paged_layers, length)

    def save(self, slot: int, length: int) -> Any:
        """Return the first tokens of a slot as a numpy array of bytes in host memory."""
        return host_states.save(self._paged_layers, self._columns(slot, length), length)

    def restore(self, slot: int, state: Any, tokens: int, length: int) -> bool:
        """Write the first `length` of a saved state's tokens to a slot; false: it does not fit."""
        self._tables.truncate(slot, 0)
        self.reserve(slot + 1, [(slot, 0, length)])
        host_states.allocate(self._paged_layers, host_states.read_layout(state))
        where = self._columns(slot, length)
        return host_states.restore(self._paged_layers, where, state, tokens, length)

    def _columns(self, slot: int, length: int) -> torch.Tensor:
        """Return where the first tokens of a slot lie among the columns of all pages."""
        (table,) = self._tables.rows([slot], length)
        places = [table[at // PAGE] * PAGE + at % PAGE for at in range(length)]
        return torch.tensor(places, device=self._device)

    def truncate(self, slot: int, length: int) -> None:
        """Free what a slot has behind its first tokens."""
        self._tables.truncate(slot, length)

    def clear(self, slot: int, first: int) -> None:
        """Free a slot's pages from `first` on; columns behind a sequence's end are never read."""
        self._tables.truncate(slot, first)

    def clear_not_finite(self, highest: list[float], first: int, ends: list[int]) -> None:
        """Do nothing: rows that are too many wrote to the spare page, which no slot reads."""

    def _initialized(self) -> list[PagedLayer]:
        return [layer for layer in self._paged_layers if layer.is_initialized]
