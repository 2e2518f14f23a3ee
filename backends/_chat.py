"""A chat in a row of an engine's cache: the request that is answered, token by token."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Protocol

from kuwa_min.sentences import CONTEXT_FULL

from ._request import Request
from ._rows import Row


class Speaker(Protocol):
    """What a chat needs of its model."""

    context: int  # tokens that prompt and answer may have together
    ends: Container[int]  # tokens that end an answer

    def room(self, request: Request) -> int:
        """Return how many tokens an answer can have before the context is full."""

    def create_decoder(self) -> Callable[[int], str]:
        """Return what gives the text that each token of an answer completes."""


class Chat(Row):
    """A row with the request that uses it; `tokens` are those that were computed."""

    request: Request
    given: list[int]  # what is to be read before the next token can be computed
    next_token: int

    def begin(self, request: Request, model: Speaker, *, known: int, wanted: int | None) -> None:
        """Answer a request with `wanted` tokens, or as many as there is room for.

        known: tokens at the prompt's beginning that the row's cache holds already.
        """
        self.occupy(request.prompt[:known])
        request.reused = known
        self.request, self.given, self._model = request, request.prompt, model
        self._decode = model.create_decoder()
        room = model.room(request)
        self._most = room if wanted is None else min(wanted, room)
        self._is_cut_by_context = wanted is None or room < wanted

    @property
    def is_read(self) -> bool:
        """Tell whether all that is given was computed."""
        return self.unread <= 0

    @property
    def unread(self) -> int:
        """Return how many tokens are still to be read."""
        return len(self.given) - len(self.tokens)

    def next_part(self, most: int) -> list[int]:
        """Return the tokens that are to be read next, so many at most."""
        known = len(self.tokens)
        return self.given[known : known + most]

    def read_again(self, known: int) -> None:
        """Read what was given and answered so far, because the cache holds so little of it."""
        self.given = [*self.tokens, self.next_token]
        self.tokens = self.tokens[:known]

    def say(self, token: int) -> bool:
        """Add a token to the answer; return whether it is the last one."""
        request = self.request
        request.written += 1
        if token in self._model.ends:
            request.finish()
            return True
        self.next_token = token
        request.say(self._decode(token))
        if request.written < self._most and not request.over:
            return False
        if self._is_cut_by_context and request.written >= self._most:
            request.note(CONTEXT_FULL.format(self._model.context))
        request.finish()
        return True
