"""Stream text: decode UTF-8 incrementally, cut at stop words.

Knows no models, tokens or chats.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from itertools import compress


class Utf8Decoder:
    """Decode UTF-8 incrementally; an incomplete character is held until its rest arrives."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """Return the text that these bytes complete; invalid bytes become U+FFFD."""
        return self._decoder.decode(data)


class StopWords:
    """Cut streamed text at the first stop word.

    A tail that may be the beginning of a stop word is held until the next text decides it. Hidden
    text, the markup of special tokens, may be a part of stop words and is never emitted. Stop words
    are found with it and in what is emitted without it.
    """

    def __init__(self, words: Sequence[str] = ()) -> None:
        self._words = tuple(filter(None, words))
        self._held = ""
        self._is_shown: list[bool] = []  # of each held character
        self._emitted: StopWords | None = None  # cuts what is emitted, from hidden text on
        self.hit = False

    def feed(self, text: str, *, hidden: bool = False) -> str:
        """Return the text to emit now; nothing after a stop word was hit."""
        if not self._words:
            return "" if hidden else text
        if self.hit:
            return ""
        self._is_shown += [not hidden] * len(text)
        text = self._held + text
        found = [at for at in map(text.find, self._words) if at >= 0]
        self.hit = bool(found)
        end = min(found) if found else len(text) - overlap(text, self._words)
        emitted = "".join(compress(text[:end], self._is_shown))
        self._held, self._is_shown = ("", []) if found else (text[end:], self._is_shown[end:])
        if hidden and self._emitted is None:
            self._emitted = StopWords(self._words)
        return self._cut(emitted, is_last=self.hit)

    def finish(self) -> str:
        """Return the held tail at the end of the text, up to a stop word in what is emitted."""
        held, self._held = "".join(compress(self._held, self._is_shown)), ""
        return self._cut(held, is_last=True)

    def _cut(self, text: str, *, is_last: bool) -> str:
        """Return what to emit of a text whose hidden parts were removed."""
        emitted = self._emitted
        if emitted is None:
            return text
        text = emitted.feed(text)
        self.hit = self.hit or emitted.hit
        return text + emitted.finish() if is_last else text


def overlap(text: str, words: Sequence[str]) -> int:
    """Return the length of the longest suffix of a text that is the beginning of a word."""
    longest = 0
    for word in words:
        at = text.find(word[0], max(0, len(text) - len(word) + 1))
        while at >= 0 and not word.startswith(text[at:]):
            at = text.find(word[0], at + 1)
        longest = max(longest, len(text) - at if at >= 0 else 0)
    return longest
