"""Pages of slots: whatever happens, a slot reads what was written to it."""

from __future__ import annotations

import random

import pytest

from backends.huggingface.paged.page_tables import PAGE, SPARE, PageTables

SLOTS = 4


class Twin:
    """Contents of slots, kept in pages and, to compare, in a list for each slot."""

    def __init__(self) -> None:
        self.tables, self.pages = PageTables(), dict[int, list[int]]()
        self.right: list[list[int]] = [[] for _ in range(SLOTS)]
        self.written = 0

    def write(self, *places: tuple[int, int, int]) -> None:
        """Write new numbers to columns of slots."""
        most = self.tables.needed(places)
        for source, target in self.tables.write(places):
            self.pages[target] = list(self.pages[source])
        assert self.tables.pages <= most
        for slot, first, end in places:
            (table,) = self.tables.rows([slot], end)
            for column in range(first, end):
                self.written += 1
                page = self.pages.setdefault(table[column // PAGE], [-1] * PAGE)
                page[column % PAGE] = self.written
            self.right[slot][first:] = range(self.written - end + first + 1, self.written + 1)

    def check(self) -> None:
        """Compare all slots."""
        for slot, right in enumerate(self.right):
            (table,) = self.tables.rows([slot], len(right) + 2 * PAGE)
            assert table[-2:] == [SPARE] * 2, "no page is kept in vain"
            found = [self.pages[page] for page in table if page != SPARE]
            assert [one for page in found for one in page][: len(right)] == right


@pytest.mark.parametrize("seed", range(20))
def test_a_slot_reads_what_was_written_to_it(seed: int) -> None:
    """Written, shared, cut off, exchanged, forgotten and numbered anew by chance."""
    rng, twin = random.Random(seed), Twin()
    for _ in range(60):
        slot, other = rng.sample(range(SLOTS), 2)
        length = rng.choice([0, 1, PAGE - 1, PAGE, rng.randrange(4 * PAGE)])
        kept = min(length, len(twin.right[slot]))
        match rng.randrange(6):
            case 0 | 1:
                twin.tables.truncate(slot, kept)
                twin.write((slot, kept, kept + length))
            case 2:
                ends = [len(right) for right in twin.right]
                twin.write(*((at, end, end + 1) for at, end in enumerate(ends)))
            case 3:
                twin.tables.share(slot, other, kept)
                twin.right[other] = twin.right[slot][:kept]
            case 4:
                twin.tables.swap(slot, other)
                twin.right[slot], twin.right[other] = twin.right[other], twin.right[slot]
            case 5:
                order = twin.tables.compact(slot)
                twin.pages = {new: twin.pages[old] for new, old in enumerate(order) if old}
                twin.right[slot:] = [[] for _ in range(SLOTS - slot)]
        twin.check()


def test_a_shared_prefix_takes_no_pages_until_it_is_written_to() -> None:
    """Full pages stay shared for ever; of the last one, each slot but the last gets a copy."""
    tables = PageTables()
    tables.write([(0, 0, 3 * PAGE + 7)])
    before = tables.pages
    for slot in range(1, SLOTS):
        tables.share(0, slot, 3 * PAGE + 7)
    assert tables.pages == before
    copies = tables.write([(slot, 3 * PAGE + 7, 3 * PAGE + 8) for slot in range(SLOTS)])
    assert len(copies) == tables.pages - before == SLOTS - 1
    rows = tables.rows(range(SLOTS), 4 * PAGE)
    assert len({tuple(row[:3]) for row in rows}) == 1
    assert len({row[3] for row in rows}) == SLOTS


def test_nothing_is_copied_of_a_page_that_is_written_from_its_first_column() -> None:
    """Its contents would be overwritten."""
    tables = PageTables()
    tables.write([(0, 0, 2 * PAGE)])
    tables.share(0, 1, 2 * PAGE)
    assert tables.write([(1, PAGE, PAGE + 5)]) == []
    assert tables.rows([0], PAGE) == tables.rows([1], PAGE)
