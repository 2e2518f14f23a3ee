"""Which slot a prompt goes to, and how much of it is reused."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from backends._local.prefix_match import (
    MIN_PREFIX,
    common_prefix_length,
    match_nothing,
    match_prefix,
)

SYSTEM = list(range(100, 100 + 2 * MIN_PREFIX))  # a prefix that is worth a copy


@dataclass(eq=False)
class Slot:
    """A slot that holds these tokens."""

    tokens: list[int] = field(default_factory=list)
    is_idle: bool = True
    last_used: int = 0
    adapters: str = ""


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [([], [1], 0), ([1], [1], 1), ([1, 2, 3], [1, 2], 2), ([1, 2, 3], [1, 5, 3], 1), ([2], [1], 0)],
)
def test_a_common_prefix_ends_at_the_first_difference(
    first: list[int], second: list[int], length: int
) -> None:
    """Or with the shorter list."""
    assert common_prefix_length(first, second) == length


def test_the_next_turn_of_a_chat_takes_over_its_slot() -> None:
    """Nothing is copied, however short the prefix is."""
    other, own = Slot([7, 8, 9]), Slot([1, 2, 3])
    match = match_prefix([other, own], [1, 2, 3, 4], can_grow=True, min_prefix=MIN_PREFIX)
    assert (match.slot, match.cached, match.source) == (own, 3, None)


def test_the_last_token_of_a_prompt_is_computed() -> None:
    """Its logits are those of the first token of the completion."""
    own = Slot([1, 2, 3])
    assert match_prefix([own], [1, 2, 3], can_grow=False, min_prefix=MIN_PREFIX).cached == 2


def test_a_slot_that_holds_much_more_is_not_taken_over() -> None:
    """Its chat may go on; the prefix is copied to the least recently used slot."""
    long = Slot([*SYSTEM, *range(99)], last_used=1)
    old, recent = Slot([5], last_used=2), Slot([6], last_used=3)
    match = match_prefix([long, recent, old], [*SYSTEM, 1], can_grow=True, min_prefix=MIN_PREFIX)
    assert (match.slot, match.cached, match.source) == (None, len(SYSTEM), long)
    match = match_prefix([recent, long, old], [*SYSTEM, 1], can_grow=False, min_prefix=MIN_PREFIX)
    assert (match.slot, match.cached, match.source) == (long, len(SYSTEM), None)
    long.last_used = 9
    match = match_prefix([recent, long, old], [*SYSTEM, 1], can_grow=False, min_prefix=MIN_PREFIX)
    assert (match.slot, match.cached, match.source) == (old, len(SYSTEM), long)


@pytest.mark.parametrize(("held", "is_taken_over"), [(4, True), (5, False)])
def test_a_slot_half_of_whose_tokens_are_reused_is_taken_over(
    held: int, is_taken_over: bool
) -> None:
    """With less than half, more is lost than won."""
    slot = Slot(list(range(held)))
    match = match_prefix([slot], [0, 1, 9, 9], can_grow=True, min_prefix=MIN_PREFIX)
    assert (match.slot, match.cached) == ((slot, 2) if is_taken_over else (None, 0))


def test_a_busy_slot_is_a_source_and_no_target() -> None:
    """Its sequence goes on."""
    busy, idle = Slot([*SYSTEM, 1], is_idle=False), Slot([5], last_used=4)
    match = match_prefix([busy, idle], [*SYSTEM, 2], can_grow=False, min_prefix=MIN_PREFIX)
    assert (match.slot, match.cached, match.source) == (idle, len(SYSTEM), busy)


@pytest.mark.parametrize(("min_prefix", "is_copied"), [(8, True), (9, False)])
def test_a_prefix_is_copied_if_that_is_faster_than_its_prefill(
    min_prefix: int, is_copied: bool
) -> None:
    """From min_prefix tokens on."""
    busy, idle = Slot([*SYSTEM[:8], 1], is_idle=False), Slot()
    match = match_prefix([busy, idle], [*SYSTEM[:8], 2], can_grow=False, min_prefix=min_prefix)
    assert (match.slot, match.cached, match.source) == (
        (idle, 8, busy) if is_copied else (idle, 0, None)
    )


@pytest.mark.parametrize(("min_prefix", "is_copied"), [(5, True), (6, False)])
def test_the_least_recently_used_slot_keeps_what_it_shares(
    min_prefix: int, is_copied: bool
) -> None:
    """A copy must save as much beyond that."""
    long = Slot([*SYSTEM[:8], *range(50)], last_used=2)
    old = Slot([*SYSTEM[:3], *range(50)], last_used=1)
    prompt = [*SYSTEM[:8], 1]
    match = match_prefix([long, old], prompt, can_grow=False, min_prefix=min_prefix)
    assert (match.slot, match.cached, match.source) == (
        (old, 8, long) if is_copied else (old, 3, None)
    )


@pytest.mark.parametrize(("held", "wanted"), [("", "a*1"), ("a*1", ""), ("a*1", "a*0.5")])
def test_what_was_computed_with_other_adapters_is_not_reused(held: str, wanted: str) -> None:
    """Neither in place nor as a copy, though all tokens are the same."""
    busy = Slot([*SYSTEM, 1], is_idle=False, adapters=held)
    idle = Slot([*SYSTEM, 1], adapters=held)
    match = match_prefix(
        [busy, idle], [*SYSTEM, 2], can_grow=False, min_prefix=MIN_PREFIX, adapters=wanted
    )
    assert (match.slot, match.cached, match.source) == (idle, 0, None)
    match = match_prefix(
        [busy, idle], [*SYSTEM, 2], can_grow=False, min_prefix=MIN_PREFIX, adapters=held
    )
    assert (match.slot, match.cached, match.source) == (idle, len(SYSTEM), None)


def test_the_first_prompt_gets_a_new_slot() -> None:
    """There is none yet."""
    match = match_prefix([], [1, 2], can_grow=True, min_prefix=MIN_PREFIX)
    assert (match.slot, match.cached, match.source) == (None, 0, None)


def test_where_nothing_is_reused_the_least_recently_used_slot_is_taken() -> None:
    """Or a new one, if there may be one; whatever the slots hold."""
    busy, recent, old = Slot(SYSTEM, is_idle=False), Slot(SYSTEM, last_used=2), Slot(last_used=1)
    match = match_nothing([busy, recent, old], can_grow=False)
    assert (match.slot, match.cached, match.source) == (old, 0, None)
    match = match_nothing([busy, recent, old], can_grow=True)
    assert (match.slot, match.cached, match.source) == (None, 0, None)
