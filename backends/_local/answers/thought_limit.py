"""End thoughts that are too long: what closes them is decoded in place of what was sampled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from backends._local.request import Request


class ThoughtLimit:
    """Counts the tokens of one completion's thoughts; for the engine's thread only.

    most: tokens of thoughts; tokenize: makes tokens of the markup that closes a thought.
    """

    def __init__(self, request: Request, most: int, tokenize: Callable[[str], list[int]]) -> None:
        self._request, self._left, self._tokenize = request, most, tokenize
        self._forced: deque[int] = deque()  # tokens that are still to be inserted
        self.is_forcing = False  # whether next_forced() returned a token last

    def next_forced(self) -> int | None:
        """Return the token that must come next; None: the one that is sampled. Once a token."""
        if not self._forced and self._request.is_thinking:
            if self._left <= 0:
                self._forced.extend(self._tokenize(self._request.closing))
            self._left -= 1
        self.is_forcing = bool(self._forced)
        return self._forced.popleft() if self._forced else None
