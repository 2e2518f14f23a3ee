"""Log probabilities of an answer's tokens, handed over together with the text that they make."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kuwa_min.chat.chunks import TokenLogprob


class SampledToken(NamedTuple):
    """A sampled token, its log probability before any option of sampling, and the likeliest ones.

    likeliest: token and log probability of each, in descending order.
    """

    token: int
    logprob: float
    likeliest: Sequence[tuple[int, float]]


class AnswerLogprobs:
    """The log probabilities of one answer's tokens.

    count: alternatives wanted for each token. The engine's thread calls add() before a token's text
    is fed, follow() behind it, and hand_over() with each piece of text that it hands over; the
    reading thread calls take_piece() once for each piece that it has got, then take().
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._held: list[tuple[SampledToken, bool]] = []  # whose text is not shown yet; is a space
        self._shown: list[SampledToken] = []  # their text waits to be handed over
        self._pieces: deque[list[SampledToken]] = deque()
        self._taken: list[SampledToken] = []

    def add(self, sampled: SampledToken, text: str) -> None:
        """Add a token whose text comes next."""
        self._held.append((sampled, text.isspace()))

    def follow(self, shown: str, *, is_thinking: bool) -> None:
        """Take what is held for the tokens of text that is shown now.

        Those of a thought are dropped, and white space in front of an answer that shows none.
        """
        if is_thinking:
            self._held = []
        elif shown:
            if not (self._shown or shown[0].isspace()):
                self._held = [*itertools.dropwhile(lambda one: one[1], self._held)]
            self._shown += [sampled for sampled, _ in self._held]
            self._held = []

    def hand_over(self) -> None:
        """Hand over the tokens of a piece of text, before it."""
        self._pieces.append(self._shown)
        self._shown = []

    def take_piece(self) -> None:
        """Take the tokens of the piece that came next."""
        self._taken += self._pieces.popleft()

    def take(self) -> list[SampledToken]:
        """Return the tokens of all pieces that were taken."""
        taken, self._taken = self._taken, []
        return taken


def named(sampled: Iterable[SampledToken], texts: Sequence[bytes]) -> list[TokenLogprob]:
    """Return tokens with their bytes; texts: of all tokens, by their ids."""

    def text(token: int) -> bytes:
        return texts[token] if token < len(texts) else b""  # a model may have more embeddings

    return [
        TokenLogprob(text(token), logprob, [(text(one), value) for one, value in likeliest])
        for token, logprob, likeliest in sampled
    ]
