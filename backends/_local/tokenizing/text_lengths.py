"""The lengths of texts in tokens, remembered: the messages of a chat come again on each turn."""

from __future__ import annotations

from collections.abc import Callable

MAX_TEXTS = 2**16  # whose lengths are remembered


class TextLengths:
    """Counts the tokens of texts, which any thread may ask for; keeps hashes, not the texts."""

    def __init__(self, tokenize: Callable[[str], list[int]]) -> None:
        self._tokenize = tokenize
        self._lengths: dict[tuple[int, int], int] = {}  # by hash and number of characters

    def __call__(self, text: str) -> int:
        """Return the length of a text in tokens."""
        key = hash(text), len(text)
        length = self._lengths.get(key)
        if length is None:
            if len(self._lengths) >= MAX_TEXTS:
                self._lengths.clear()
            length = len(self._tokenize(text.encode("utf-8", "replace").decode()))
            self._lengths[key] = length
        return length
