"""Where pictures lie in the slots of a context, and at which positions their tokens are.

A picture is kept whole or not at all: its tokens may see each other, and with M-RoPE they share
positions, by which llama.cpp removes tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from .spans import Span, find_spans


class Layout:
    """The pictures' spans in each of `slots` slots, in order."""

    def __init__(self, slots: int) -> None:
        self._spans: list[list[Span]] = [[] for _ in range(slots)]

    def add(self, slot: int, span: Span) -> None:
        """Note a span that is computed next, at the end of what the slot holds."""
        self._spans[slot].append(span)

    def set(self, slot: int, ids: Sequence[int]) -> None:
        """Note what a slot holds: the ids of its tokens."""
        self._spans[slot] = [] if not ids or min(ids) >= 0 else [*find_spans(ids)]

    def copy(self, source: int, target: int) -> None:
        """Note that a slot holds what another one does."""
        self._spans[target] = list(self._spans[source])

    def clear(self) -> None:
        """Note that all slots are empty."""
        self._spans = [[] for _ in self._spans]

    def cut(self, slot: int, length: int) -> int:
        """Forget the spans behind `length` tokens; return how many tokens are kept: whole()."""
        kept = self.whole(slot, length)
        if self._spans[slot]:
            self._spans[slot] = [one for one in self._spans[slot] if one.end <= kept]
        return kept

    def whole(self, slot: int, length: int) -> int:
        """Return `length`, or the start of the picture that a cut there would divide."""
        inner = (one.start for one in self._spans[slot] if one.start < length < one.end)
        return next(inner, length)

    def position(self, slot: int, length: int) -> int:
        """Return the position of the token behind the first `length` ones of a slot.

        They must not end within a picture.
        """
        passed = (one for one in self._spans[slot] if one.end <= length)
        return length - sum(one.tokens - one.positions for one in passed)

    def positions(self, lengths: Sequence[int]) -> Sequence[int]:
        """Return the next position of each slot; lengths: the tokens that each holds."""
        if not any(self._spans):
            return lengths
        return [self.position(slot, length) for slot, length in enumerate(lengths)]

    def least_last(self, slot: int, length: int) -> int:
        """Return the least position that the last of a slot's first `length` tokens may have.

        With M-RoPE, the tokens of a picture may use fewer positions than it takes.
        """
        ending = (one.start for one in self._spans[slot] if one.end == length)
        start = next(ending, None)
        if start is None:
            return self.position(slot, length) - 1
        return self.position(slot, start)
