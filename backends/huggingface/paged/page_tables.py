"""Which pages of a KV cache hold the columns of each slot, and which slots share a page.

Knows no library. A page that several slots hold is written by none of them: who wants to write to
it gets a copy first.
"""

from __future__ import annotations

from collections.abc import Iterable

PAGE = 256  # columns; the kernel takes multiples of 256
SPARE = 0  # a page that no slot has: rows that compute nothing write there

Write = tuple[int, int, int]  # a slot, and the columns of it that a pass writes: first and end
Copy = tuple[int, int]  # a page, and the one that its contents must be copied to


class PageTables:
    """The pages of each slot; page numbers are those of the buffers of all layers."""

    def __init__(self) -> None:
        self._tables: list[list[int]] = []  # by slot
        self._uses = [1]  # slots that hold each page
        self._free: list[int] = []

    @property
    def pages(self) -> int:
        """Return how many pages are known, used or free."""
        return len(self._uses)

    def needed(self, writes: Iterable[Write]) -> int:
        """Return how many pages must be known to make these writes, at most."""
        new = 0
        for slot, first, end in writes:
            table = self._table(slot)
            new += max(0, pages_of(end) - len(table))
            new += sum(self._uses[page] > 1 for page in table[first // PAGE : pages_of(end)])
        return self.pages + max(0, new - len(self._free))

    def write(self, writes: Iterable[Write]) -> list[Copy]:
        """Give each slot pages of its own for what it writes; return what must be copied before.

        A slot's columns before `first` are in it already.
        """
        copies = []
        for slot, first, end in writes:
            table = self._table(slot)
            for at in range(first // PAGE, pages_of(end)):
                if at == len(table):
                    table.append(self._take())
                elif self._uses[table[at]] > 1:
                    shared, table[at] = table[at], self._take()
                    self._release([shared])
                    if first > at * PAGE:
                        copies.append((shared, table[at]))
        return copies

    def share(self, source: int, target: int, length: int) -> None:
        """Give a slot the first columns of another one, instead of its own."""
        shared = self._table(source)[: pages_of(length)]
        for page in shared:
            self._uses[page] += 1
        self.truncate(target, 0)
        self._tables[target] = shared

    def truncate(self, slot: int, length: int) -> None:
        """Free the pages behind a slot's first columns."""
        table = self._table(slot)
        self._release(table[pages_of(length) :])
        del table[pages_of(length) :]

    def swap(self, one: int, other: int) -> None:
        """Exchange the pages of two slots."""
        first, second = self._table(one), self._table(other)
        self._tables[one], self._tables[other] = second, first

    def compact(self, slots: int) -> list[int]:
        """Forget all but the first slots, and number the pages that they hold anew.

        Returns the old numbers of the pages, in the order of the new ones.
        """
        del self._tables[slots:]
        kept = sorted({SPARE, *(page for table in self._tables for page in table)})
        numbers = {old: new for new, old in enumerate(kept)}
        self._tables = [[numbers[page] for page in table] for table in self._tables]
        self._uses, self._free = [1] + [0] * (len(kept) - 1), []
        for table in self._tables:
            for page in table:
                self._uses[page] += 1
        return kept

    def rows(self, slots: Iterable[int], columns: int) -> list[list[int]]:
        """Return the pages of each slot's first columns; SPARE where a slot has none."""
        width = pages_of(columns)
        tables = (self._table(slot)[:width] for slot in slots)
        return [table + [SPARE] * (width - len(table)) for table in tables]

    def _table(self, slot: int) -> list[int]:
        while len(self._tables) <= slot:
            self._tables.append([])
        return self._tables[slot]

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
            self._uses[page] = 1
            return page
        self._uses.append(1)
        return len(self._uses) - 1

    def _release(self, pages: Iterable[int]) -> None:
        for page in pages:
            self._uses[page] -= 1
            if not self._uses[page]:
                self._free.append(page)


def pages_of(columns: int) -> int:
    """Return the number of pages for this number of columns."""
    return -(-columns // PAGE)
