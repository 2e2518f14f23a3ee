"""Prefix reuse: find the slot whose KV cache already holds the beginning of a prompt.

Knows no library.
"""

# The strategy. A finished sequence leaves its keys and values in its slot, and a new prompt is
# compared, token by token, with what every slot holds:
# 1. An idle slot at least half of whose tokens are a prefix of the prompt is taken over: usually
#    the same chat's next turn. Nothing is copied.
# 2. Else the longest prefix that any slot shares, busy or idle, is copied to a new slot or to the
#    least recently used one: usually a system prompt. A short prefix is cheaper to prefill again.
# 3. Else the least recently used slot keeps what it shares with the prompt, often the beginning of
#    the chat template, and the rest is prefilled.
# The last token of a prompt is never reused: its logits are needed for the first sampled token.
# What was computed with other adapters (LoRA) is never reused either.

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

MIN_PREFIX = 16  # tokens; a shorter one is prefilled again where the time of a copy is not measured

_clock = itertools.count(1)


class Slot(Protocol):
    """A slot of the KV cache, as far as prefix reuse knows it."""

    tokens: list[int]  # whose keys and values it holds
    adapters: str  # with which they were computed: Request.adapters
    is_idle: bool
    last_used: int  # when it became idle, by tick()


SlotT = TypeVar("SlotT", bound=Slot)


@dataclass(frozen=True)
class PrefixMatch(Generic[SlotT]):
    """Where a prompt goes, and how much of it need not be computed."""

    slot: SlotT | None  # None: a new one
    cached: int  # tokens that the slot holds, or will hold once copied
    source: SlotT | None  # the slot to copy them from; None: nothing to copy


def tick() -> int:
    """Return a number larger than all before: the order in which slots were used."""
    return next(_clock)


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens at the beginning of both are equal."""
    most = min(len(first), len(second))
    return bisect.bisect_left(
        range(1, most + 1), True, key=lambda size: first[:size] != second[:size]
    )


def shared_length(slot: Slot, prompt_ids: Sequence[int], adapters: str) -> int:
    """Return how many of a prompt's tokens a slot holds, computed with the same adapters."""
    return common_prefix_length(slot.tokens, prompt_ids) if slot.adapters == adapters else 0


def match_prefix(
    slots: Iterable[SlotT],
    prompt_ids: Sequence[int],
    *,
    can_grow: bool,
    min_prefix: int,
    adapters: str = "",
) -> PrefixMatch[SlotT]:
    """Choose a slot for a prompt; at least one of the slots is idle, or can_grow is true.

    can_grow: a new slot may be made; min_prefix: tokens from which on copying is faster than
    prefilling; adapters: with which the prompt is computed.
    """
    slots = list(slots)
    reusable = prompt_ids[:-1]
    shared = [shared_length(slot, reusable, adapters) for slot in slots]
    best = max(range(len(slots)), key=lambda at: (shared[at], slots[at].is_idle), default=None)
    source, cached = (None, 0) if best is None else (slots[best], shared[best])
    if source and source.is_idle and cached and 2 * cached >= len(source.tokens):
        return PrefixMatch(source, cached, None)
    target = None if can_grow else _least_recently_used(slots)
    kept = 0 if target is None else shared_length(target, reusable, adapters)
    if cached < kept + min_prefix:
        return PrefixMatch(target, kept, None)
    return PrefixMatch(target, cached, source)


def match_nothing(slots: Iterable[SlotT], *, can_grow: bool) -> PrefixMatch[SlotT]:
    """Choose a slot for a prompt of which nothing is reused."""
    return PrefixMatch(None if can_grow else _least_recently_used(slots), 0, None)


def _least_recently_used(slots: Iterable[SlotT]) -> SlotT:
    return min((slot for slot in slots if slot.is_idle), key=lambda slot: slot.last_used)
