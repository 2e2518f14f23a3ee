"""Make text of what a model computes: never half a character, never a piece of a stop word.

Knows nothing of models, tokens or chats.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Utf8Decoder:
    """Turn bytes into text as they come; a character that is not whole yet waits for its rest."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """Return the text that these bytes complete; what can never be text becomes U+FFFD."""
        return self._decoder.decode(data)


class StopWords:
    """Cut text at the first stop word; what may become one is held back until that is clear."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self._words = tuple(filter(None, words))
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """Return what may be shown now; nothing more comes after a hit."""
        if not self._words:
            return text
        if self.hit:
            return ""
        text = self._held + text
        found = [place for place in map(text.find, self._words) if place >= 0]
        self.hit = bool(found)
        shown = min(found) if found else len(text) - self._beginning_of_a_word(text)
        self._held = "" if found else text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """Return what was held back for a stop word that did not come."""
        held, self._held = self._held, ""
        return held

    def _beginning_of_a_word(self, text: str) -> int:
        """Return how long the longest end of the text is that begins a stop word."""
        longest = max(map(len, self._words)) - 1
        for length in range(min(longest, len(text)), 0, -1):
            end = text[-length:]
            if any(word.startswith(end) for word in self._words):
                return length
        return 0
