"""Run several measurements in interleaved rounds of random order, so that noise hits all alike."""

import math
import random
import statistics
from collections.abc import Callable, Mapping
from typing import TypeVar

Measured = TypeVar("Measured")


def interleaved(
    contestants: Mapping[str, Callable[[], Measured]], count: int
) -> dict[str, list[Measured]]:
    """Return `count` values of every contestant; each round runs all once, shuffled."""
    values: dict[str, list[Measured]] = {name: [] for name in contestants}
    for _ in range(count):
        for name in random.sample(list(contestants), len(contestants)):
            values[name].append(contestants[name]())
    return values


def medians(values: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of every contestant."""
    return {name: statistics.median(measured) for name, measured in values.items()}


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
