"""The choice of a number of threads."""

from __future__ import annotations

import pytest

from backends._local.machine.thread_choice import Threads, Timings, change, choose


@pytest.mark.parametrize(
    ("seconds", "current", "chosen"),
    [
        ({}, 8, 8),  # nothing was measured
        ({4: 1.0, 8: 0.5, 16: 0.6}, 16, 8),
        ({4: 1.0, 8: 0.5, 16: 0.6}, 4, 8),
        ({7: 0.5, 8: 0.51}, 8, 8),  # no reason to change
        ({4: 0.5, 8: 0.5}, 8, 4),  # half as many are as fast
        ({2: 0.5, 4: 0.4, 8: 0.41}, 16, 4),  # the current number was not measured
        ({1: 2.0, 2: 1.0}, 2, 2),
    ],
)
def test_the_fastest_is_chosen(seconds: dict[int, float], current: int, chosen: int) -> None:
    """The fewest of those that are as fast, but small differences change nothing."""
    timings = Timings(seconds, {})
    assert choose(timings, Threads(current, 3)) == (chosen, 3)
    assert choose(timings._replace(prefill={}, decode=seconds), Threads(3, current)) == (3, chosen)


def test_a_change_is_said_with_figures() -> None:
    """Of that which changes; no change is none."""
    timings = Timings({4: 0.2, 8: 0.15}, {4: 0.02, 8: 0.0301})
    assert change(timings, Threads(8, 8), Threads(8, 8)) == ""
    assert change(timings, Threads(8, 8), Threads(8, 4)) == (
        "threads: 4 (8 for prompts) instead of 8: a token takes 20 ms instead of 30.1"
    )
    assert change(timings, Threads(6, 6), Threads(4, 4)) == (
        "threads: 4 instead of 6: a token takes 20 ms, a part of a prompt 200 ms"
    )
