"""Compare the durations of several ways to compute, and notice other programs meanwhile."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Generator, Mapping
from typing import TypeVar

Key = TypeVar("Key")

ROUNDS = 5
REPEATS, SHORT = 3, 0.05  # runs in a row, and seconds after which there is no other
MOST = 10.0  # times `seconds`: what would take longer in one round is not compared
# Above these preemptions per second, other programs wanted the processor. One that computes without
# end causes some hundred of them on a core that it shares; a quiet system a few on each.
PREEMPTIONS, PREEMPTIONS_OF_THREAD = 20.0, 2.0


def compare(
    works: Mapping[Key, Callable[[], object]], seconds: float
) -> Generator[None, None, dict[Key, float]]:
    """Time each work in turn, ROUNDS times at most; yield after each. Return the shortest seconds.

    seconds: after which no other round begins. Returns {} if a round would take MOST times as long.
    """
    found: dict[Key, float] = {}
    began = time.perf_counter()
    for number in range(ROUNDS):
        if number and time.perf_counter() - began > seconds:
            break
        for key, work in works.items():
            duration = shortest(work)
            if duration * len(works) > MOST * seconds:
                return {}
            found[key] = min(duration, found.get(key, duration))
            yield
    return found


def shortest(work: Callable[[], object]) -> float:
    """Return the shortest duration of some runs in seconds, or the only one if the work is slow.

    The first run may have to wait until its threads are started.
    """
    durations: list[float] = []
    while not durations or (len(durations) < REPEATS and sum(durations) < SHORT):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return min(durations)


class Disturbance:
    """Tells whether other programs took processors from this one since it was created."""

    def __init__(self, threads: int) -> None:
        """threads: the most that compute at once."""
        self._threads, self._began, self._preemptions = threads, time.monotonic(), _preemptions()

    def __bool__(self) -> bool:
        seconds = time.monotonic() - self._began
        most = seconds * (PREEMPTIONS + PREEMPTIONS_OF_THREAD * self._threads)
        return _preemptions() - self._preemptions > most


def _preemptions() -> int:
    """Return how often the system halted threads of this process to run others."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
