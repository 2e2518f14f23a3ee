"""Remember which row of an engine's cache holds which tokens, and find the one to go on from.

Knows no library: a row is a place where a model keeps what it has computed of one chat.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple

LEAST = 16  # tokens that must agree before copying them is ever worth while

_clock = count(1)


class Row:
    """The tokens that a row's cache stands for, whether or not anybody uses it now."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.is_idle = True
        self.used = 0  # when, as a number that grows

    def occupy(self, tokens: list[int]) -> None:
        """Let a request use the row, whose cache holds these first tokens of its prompt."""
        self.tokens, self.is_idle = tokens, False

    def release(self) -> None:
        """Keep the tokens for whoever goes on from them."""
        self.is_idle, self.used = True, next(_clock)


class Start(NamedTuple):
    """Where a prompt begins: its row, and how many tokens are there or can be copied there."""

    row: Row | None  # None: a new one is needed
    known: int
    source: Row | None  # None: nothing is to be copied


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens at the beginning of both agree."""
    most = min(len(first), len(second))
    return bisect.bisect_left(
        range(1, most + 1), True, key=lambda size: first[:size] != second[:size]
    )


def choose(
    rows: Iterable[Row], prompt: Sequence[int], *, can_grow: bool, least: int = LEAST
) -> Start:
    """Choose a row for a prompt: at least one of its tokens is left to compute.

    least: tokens that must agree before copying them is worth while.
    An idle row whose chat this goes on with is taken over; else the beginning that any row shares
    is copied into a new row, or into the one that was not used for the longest time.
    """
    rows = list(rows)
    wanted = prompt[:-1]
    shared = [common(row.tokens, wanted) for row in rows]
    best = max(range(len(rows)), key=lambda at: (shared[at], rows[at].is_idle), default=None)
    source, known = (None, 0) if best is None else (rows[best], shared[best])
    if source and source.is_idle and known and 2 * known >= len(source.tokens):
        return Start(source, known, None)
    if known < max(least, LEAST):
        source, known = None, 0
    if can_grow:
        return Start(None, known, source)
    target = min((row for row in rows if row.is_idle), key=lambda row: row.used)
    return Start(target, known, None if target is source else source)
