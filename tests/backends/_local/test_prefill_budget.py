"""How much of the prompts is read at once."""

from __future__ import annotations

import pytest

from backends._local.prefill_budget import (
    FIRST_TOKENS,
    MAX_PRESSURE,
    MIN_TOKENS,
    TARGET_SECONDS,
    PrefillBudget,
    split_budget,
)


def test_reading_takes_as_long_as_it_may() -> None:
    """Whatever the machine's speed; at most twice as much as the last time."""
    budget = PrefillBudget(4096)
    assert budget.tokens(waiting=1, decoding=1) == FIRST_TOKENS
    budget.record(FIRST_TOKENS, TARGET_SECONDS / 3)
    assert budget.tokens(waiting=1, decoding=1) == 2 * FIRST_TOKENS
    budget.record(1000, TARGET_SECONDS * 2)
    assert budget.tokens(waiting=1, decoding=1) == 500
    assert budget.tokens_in(TARGET_SECONDS * 2) == 1000


def test_it_has_bounds() -> None:
    """The most that is computed at once, and the least that is worth it."""
    fast = PrefillBudget(300)
    for _ in range(5):
        fast.record(300, 0.0)
    assert fast.tokens(waiting=1, decoding=1) == 300
    slow = PrefillBudget(4096)
    slow.record(256, 1000.0)
    assert slow.tokens(waiting=1, decoding=1) == MIN_TOKENS
    assert PrefillBudget(100).tokens(waiting=1, decoding=0) == 100


def test_few_tokens_teach_nothing() -> None:
    """What they take says little of the speed of reading."""
    budget = PrefillBudget(4096)
    budget.record(MIN_TOKENS - 1, 100.0)
    assert budget.tokens(waiting=1, decoding=1) == FIRST_TOKENS


@pytest.mark.parametrize(
    ("waiting", "answered", "times"),
    [(1, 8, 1), (8, 8, 1), (4, 2, 2), (8, 0, MAX_PRESSURE), (64, 1, MAX_PRESSURE)],
)
def test_the_more_wait_the_more_is_read(waiting: int, answered: int, times: int) -> None:
    """Compared to those who are answered meanwhile."""
    assert PrefillBudget(4096).tokens(waiting=waiting, decoding=answered) == FIRST_TOKENS * times


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
    assert split_budget(tokens, wanted) == given
