"""Tokenize texts piece by piece: native calls of bounded length, which a stopped chat leaves.

Nothing interrupts a native call, and some texts take time that grows with the square of their
length. The regular expressions of llama.cpp overflow the stack, which ends the process, in a text
of 30,000 letters without a space.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from .bounds import is_enough, most_tokens
from .prompt_tokenizer import Tokenizer
from .split_points import Tokenize, find_split_points
from .token_cache import TokenCache

PIECE = 4096  # characters
LONG_TOKEN = 32  # characters; no prompt is made of such tokens


class PieceTokenizer:
    """Tokenizes texts in pieces of PIECE characters at most; called from any thread.

    Texts are divided in front of control tokens, and at the tokenizer's split points. If these are
    not known, a piece has up to as many characters as no prompt has.

    The tokens are those of the whole text, but for a run of more than PIECE characters without a
    split point, such as letters without a space, which is divided anyhow. Tokens beyond those that
    bounded() asks for are left out.
    """

    def __init__(self, whole: Tokenizer) -> None:
        self._whole, self.control_tokens = whole, whole.control_tokens
        texts = whole.token_texts()
        self.split_points = None if texts is None else find_split_points(texts, whole.tokenize)
        self._cache = TokenCache()

    @property
    def longest_token(self) -> int:
        """Return the most characters of a token, about."""
        return LONG_TOKEN if self.split_points is None else self.split_points.longest_token

    def token_texts(self) -> Iterable[str] | None:
        """Return the texts of all tokens; None if texts are not divisible."""
        return self._whole.token_texts()

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, control tokens included; raises Stopped."""
        tokenize = self._whole.tokenize
        return self._join(text, tokenize, tokenize, "control", has_control=True)

    def tokenize_ordinary(self, text: str, *, is_first: bool) -> list[int]:
        """Return the token ids of a text without control tokens; raises Stopped."""
        first = partial(self._whole.tokenize_ordinary, is_first=is_first)
        behind = partial(self._whole.tokenize_ordinary, is_first=True)
        kind = "first" if is_first else "behind"
        return self._join(text, first, behind, kind, has_control=False)

    def _join(
        self, text: str, first: Tokenize, behind: Tokenize, kind: str, *, has_control: bool
    ) -> list[int]:
        """Return the tokens of all pieces; has_control: control tokens in the text are such."""
        ids: list[int] = []
        if self.split_points is not None:
            behind = partial(self.split_points.tokens_behind, behind)
        for start, end in self._pieces(text, has_control=has_control):
            if is_enough(ids):
                break
            tokenize = behind if start else first
            ids += self._cached(f"{kind} {start > 0}", text[start:end], tokenize)
        return ids

    def _cached(self, kind: str, piece: str, tokenize: Tokenize) -> list[int]:
        ids = self._cache.get((kind, piece))
        if ids is None:
            ids = tokenize(piece)
            self._cache.put((kind, piece), ids)
        return ids

    def _pieces(self, text: str, *, has_control: bool) -> Iterator[tuple[int, int]]:
        """Divide a text; one that begins alike is divided alike, so that pieces come again."""
        start = 0
        while len(text) - start > PIECE:
            end = self._end(text, start, has_control=has_control)
            yield start, end
            start = end
        if start < len(text):
            yield start, len(text)

    def _end(self, text: str, start: int, *, has_control: bool) -> int:
        """Return where a piece of a text that begins at `start` ends."""
        near = start + PIECE
        if has_control and (places := self.control_tokens.places(text, start, near)):
            return places[-1]
        if self.split_points is not None:
            return self.split_points.last(text, start, near) or near
        far = min(len(text), max(near, start + LONG_TOKEN * most_tokens()))
        places = self.control_tokens.places(text, near, far) if has_control else []
        return places[0] if places else far
