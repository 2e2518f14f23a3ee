"""How many prompt tokens a step prefills."""

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


def test_a_prefill_takes_the_target_time() -> None:
    """Whatever the machine's speed; at most twice as much as the last time."""
    budget = PrefillBudget(4096)
    assert budget.tokens(waiting=1, decoding=1) == FIRST_TOKENS
    budget.record(FIRST_TOKENS, TARGET_SECONDS / 3)
    assert budget.tokens(waiting=1, decoding=1) == 2 * FIRST_TOKENS
    budget.record(1000, TARGET_SECONDS * 2)
    assert budget.tokens(waiting=1, decoding=1) == 500
    assert budget.tokens_in(TARGET_SECONDS * 2) == 1000


def test_it_has_bounds() -> None:
    """The limit of one computation, and MIN_TOKENS."""
    fast = PrefillBudget(300)
    for _ in range(5):
        fast.record(300, 0.0)
    assert fast.tokens(waiting=1, decoding=1) == 300
    slow = PrefillBudget(4096)
    slow.record(256, 1000.0)
    assert slow.tokens(waiting=1, decoding=1) == MIN_TOKENS
    assert PrefillBudget(100).tokens(waiting=1, decoding=0) == 100


def test_a_prefill_of_few_tokens_is_ignored() -> None:
    """Its duration says little about the speed."""
    budget = PrefillBudget(4096)
    budget.record(MIN_TOKENS - 1, TARGET_SECONDS / 2)
    assert budget.tokens(waiting=1, decoding=1) == FIRST_TOKENS
    budget.record(MIN_TOKENS, TARGET_SECONDS / 2)
    assert budget.tokens(waiting=1, decoding=1) == 2 * MIN_TOKENS


@pytest.mark.parametrize(
    ("waiting", "decoding", "times"),
    [(1, 8, 1), (8, 8, 1), (3, 2, 2), (5, 3, 3), (8, 0, MAX_PRESSURE), (64, 1, MAX_PRESSURE)],
)
def test_the_more_requests_wait_the_larger_the_budget(
    waiting: int, decoding: int, times: int
) -> None:
    """Compared to those that are decoding."""
    assert PrefillBudget(4096).tokens(waiting=waiting, decoding=decoding) == FIRST_TOKENS * times


@pytest.mark.parametrize(
    ("waiting", "decoding", "times"), [(1, 0, 4), (3, 0, 5), (1, 1, 1), (2, 1, 3)]
)
def test_a_prefill_may_take_longer_while_none_is_decoding(
    waiting: int, decoding: int, times: int
) -> None:
    """Where it can be aborted."""
    budget = PrefillBudget(4096, undisturbed=4)
    assert budget.tokens(waiting=waiting, decoding=decoding) == FIRST_TOKENS * times


@pytest.mark.parametrize(
    ("tokens", "remaining", "split"),
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
    tokens: int, remaining: list[int], split: list[int]
) -> None:
    """Which still comes to its end: half is for the one that came first."""
    assert split_budget(tokens, remaining) == split
