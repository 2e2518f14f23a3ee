"""How much of the prompts is read at once."""

from __future__ import annotations

import pytest

from backends._pace import FIRST, LEAST, MOST_PRESSURE, SECONDS, Pace, shares


def test_reading_takes_as_long_as_it_may() -> None:
    """Whatever the machine's speed; at most twice as much as the last time."""
    pace = Pace(4096)
    assert pace.tokens(waiting=1, answered=1) == FIRST
    pace.learn(FIRST, SECONDS / 3)
    assert pace.tokens(waiting=1, answered=1) == 2 * FIRST
    pace.learn(1000, SECONDS * 2)
    assert pace.tokens(waiting=1, answered=1) == 500
    assert pace.tokens_in(SECONDS * 2) == 1000


def test_it_has_bounds() -> None:
    """The most that is computed at once, and the least that is worth it."""
    fast = Pace(300)
    for _ in range(5):
        fast.learn(300, 0.0)
    assert fast.tokens(waiting=1, answered=1) == 300
    slow = Pace(4096)
    slow.learn(256, 1000.0)
    assert slow.tokens(waiting=1, answered=1) == LEAST
    assert Pace(100).tokens(waiting=1, answered=0) == 100


def test_few_tokens_teach_nothing() -> None:
    """What they take says little of the speed of reading."""
    pace = Pace(4096)
    pace.learn(LEAST - 1, 100.0)
    assert pace.tokens(waiting=1, answered=1) == FIRST


@pytest.mark.parametrize(
    ("waiting", "answered", "times"),
    [(1, 8, 1), (8, 8, 1), (4, 2, 2), (8, 0, MOST_PRESSURE), (64, 1, MOST_PRESSURE)],
)
def test_the_more_wait_the_more_is_read(waiting: int, answered: int, times: int) -> None:
    """Compared to those who are answered meanwhile."""
    assert Pace(4096).tokens(waiting=waiting, answered=answered) == FIRST * times


@pytest.mark.parametrize(
    ("tokens", "wanted", "given"),
    [
        (100, [], []),
        (100, [30], [30]),
        (100, [3000], [100]),
        (100, [3000, 20], [80, 20]),
        (100, [3000, 20, 60], [50, 20, 30]),
        (100, [3000, 2000, 1000], [50, 0, 50]),
        (100, [20, 3000, 30], [20, 50, 30]),
        (101, [3000, 3000], [101, 0]),
        (1, [3000, 20], [1, 0]),
    ],
)
def test_short_prompts_do_not_wait_for_a_long_one(
    tokens: int, wanted: list[int], given: list[int]
) -> None:
    """Which still comes to its end: half is for the one that came first."""
    assert shares(tokens, wanted) == given
