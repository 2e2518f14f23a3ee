"""Which tokens may come next in one constrained answer: any in a thought, then what matches."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from backends._local.tokenizing.prompt_tokenizer import Tokenizer
from kuwa_min.chat.thinking import formats
from kuwa_min.errors import AnswerError

from .matcher import MaskPendingError, Matcher


class Openers:
    """The tokens of a model that may stand before an answer: they open a thought or a header.

    They are allowed beside what matches, so that a model that opens its thoughts itself can think.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.headers = frozenset(_single(tokenizer, formats.HEADERS))  # of harmony
        self.header_ends = frozenset(_single(tokenizer, [formats.MESSAGE]))
        self.all = self.headers | frozenset(_single(tokenizer, formats.OPENINGS))


def _single(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterable[int]:
    """Yield the tokens of the texts that are one token each."""
    for text in texts:
        ids = tokenizer.tokenize(text)
        if len(ids) == 1 and ids[0] in tokenizer.control_tokens.ids:
            yield ids[0]


class ConstrainedAnswer:
    """Follows one answer token by token; for the engine's thread.

    eos_token_ids: the tokens that end an answer. For each token, allowed() comes before add().
    """

    def __init__(self, matcher: Matcher, openers: Openers, eos_token_ids: Collection[int]) -> None:
        self._matcher, self._openers, self._eos_token_ids = matcher, openers, eos_token_ids
        self._mask: bytearray | None = None  # of the next token of the answer, once it is known
        self._applies = False  # the mask, to the next token
        self._has_begun = self._in_header = False  # the part that must match; a header of harmony

    def allowed(self, *, is_thinking: bool, deadline: float = math.inf) -> bytearray | None:
        """Return the tokens that may come next, a bit each; None: all of them.

        is_thinking: whether a thought is open; deadline: of time.monotonic(), until which it waits
        for the matcher. Raises MaskPendingError after it, AnswerError if the matcher failed.
        """
        self._applies = self._has_begun or not (is_thinking or self._in_header)
        return self._next_mask(deadline) if self._applies else None

    def _next_mask(self, deadline: float) -> bytearray:
        if self._mask is None:
            self._mask, end = self._matcher.mask(deadline), self._matcher.end
            self._can_end = _take_bit(self._mask, end)
            more = self._eos_token_ids if self._can_end else ()
            for token in (*more, *(() if self._has_begun else self._openers.all)):
                self._mask[token >> 3] |= 1 << (token & 7)
        return self._mask

    def add(self, token: int, *, is_forced: bool) -> None:
        """Take note of the answer's next token; is_forced: inserted to close a thought."""
        if not self._has_begun and token in self._openers.all:
            self._in_header = token in self._openers.headers
        elif token in self._openers.header_ends:
            self._in_header = False
        elif self._applies and not is_forced and token not in self._eos_token_ids:
            self._has_begun, self._mask = True, None
            self._matcher.advance(token)

    def is_complete(self, deadline: float = math.inf) -> bool:
        """Tell whether the answer matches as a whole; false if the deadline comes first."""
        try:
            self._next_mask(deadline)
        except (AnswerError, MaskPendingError):
            return False
        return self._can_end

    def close(self) -> None:
        """End the matcher's process."""
        self._matcher.close()


def _take_bit(mask: bytearray, place: int) -> bool:
    """Return a bit of a mask, and clear it."""
    bit = 1 << (place & 7)
    is_set = bool(mask[place >> 3] & bit)
    mask[place >> 3] &= ~bit
    return is_set
