"""Choose how much of the prompts that wait is read in one step, by the speed of the machine."""

from __future__ import annotations

from collections.abc import Sequence

SECONDS = 0.1  # for which reading may keep the others waiting, and a stop
LEAST = 32  # tokens; fewer say little of the speed
FIRST = 256  # tokens, before the speed is known
MOST_PRESSURE = 8  # times as long, if that many wait for each one that is answered


class Pace:
    """The speed of reading so far; `most` is the largest number of tokens read at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._part = min(FIRST, most)

    def tokens(self, *, waiting: int, answered: int) -> int:
        """Return how many tokens to read now; the more wait, compared to the others, the more."""
        pressure = waiting // max(1, answered)
        return self._part * min(max(1, pressure), MOST_PRESSURE)

    def learn(self, tokens: int, seconds: float) -> None:
        """Take note of how long it took to read so many tokens."""
        if tokens >= LEAST:
            wanted = int(tokens / max(seconds, 1e-6) * SECONDS)
            self._part = max(LEAST, min(self._most, wanted, 2 * self._part))

    def tokens_in(self, seconds: float) -> int:
        """Return how many tokens are read in so many seconds."""
        return int(self._part * seconds / SECONDS)


def shares(tokens: int, wanted: Sequence[int]) -> list[int]:
    """Share out how many tokens are read now among prompts, of which so many are left.

    They are in the order in which they came. Half is for the first one, so that its end comes near
    whoever follows; the rest is for those that need least, who need not wait for a long one.
    """
    given = [0] * len(wanted)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for at, most in ((0, -(-tokens // 2)), *((at, tokens) for at in order)):
        if at < len(wanted):
            more = min(most, wanted[at] - given[at], tokens - sum(given))
            given[at] += more
    return given
