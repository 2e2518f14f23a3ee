"""Choose the number of threads by the durations that were measured with several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

TOLERANCE = 1.03  # times the shortest duration is as good: it may be noise
MILLISECONDS = 1000


class Threads(NamedTuple):
    """How many threads compute prompts, and how many a token of each answer."""

    prefill: int
    decode: int

    def __str__(self) -> str:
        if self.prefill == self.decode:
            return str(self.decode)
        return f"{self.decode} ({self.prefill} for prompts)"


class Timings(NamedTuple):
    """The seconds of a prefill and of a decode step, by the number of threads; {}: not measured."""

    prefill: Mapping[int, float]
    decode: Mapping[int, float]


def choose(timings: Timings, current: Threads) -> Threads:
    """Return the numbers of threads that are fastest, the current ones if they are about as fast.

    The fewest of those that are as fast are chosen: they leave processors to other programs.
    """
    return Threads(
        _choose(timings.prefill, current.prefill), _choose(timings.decode, current.decode)
    )


def _choose(seconds: Mapping[int, float], current: int) -> int:
    if not seconds:
        return current
    good = min(seconds.values()) * TOLERANCE
    fewest = min(count for count, duration in seconds.items() if duration <= good)
    if current < 2 * fewest and seconds.get(current, good + 1) <= good:
        return current
    return fewest


def change(timings: Timings, before: Threads, after: Threads) -> str:
    """Return the line of the log about a change of threads; "" if there is none."""
    if before == after:
        return ""
    parts = [
        f"{name} {times[new] * MILLISECONDS:.3g} ms"
        + (f" instead of {times[old] * MILLISECONDS:.3g}" if old in times else "")
        for name, times, old, new in (
            ("a token takes", timings.decode, before.decode, after.decode),
            ("a part of a prompt", timings.prefill, before.prefill, after.prefill),
        )
        if old != new
    ]
    return f"threads: {after} instead of {before}: {', '.join(parts)}"
