"""Parse YAML's flow collections, [...] and {...}, on one or more lines, as PyYAML does."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Any

from .scalar import MAX_KEY_LENGTH, QUOTED, read_scalar

SPACE = re.compile(r"(?:[ \n]|(?<=[ \n])#.*)*")
WORD = re.compile(r"[^ \n,\[\]{}?:#]+(?: +[^ \n,\[\]{}?:#]+)*")
AFTER = re.compile(r"[ \n]|[,\]}:]")  # allowed after a word or a closing quote
COLON = re.compile(r" *:")


class Flow:
    """A parser of the collection at offset `at` of a text; `value` moves `at` to its end."""

    def __init__(self, text: str, at: int) -> None:
        self._text, self.at = text, at

    @property
    def line(self) -> int:
        """Return the number of line ends before `at`."""
        return self._text.count("\n", 0, self.at)

    @property
    def rest_of_line(self) -> str:
        """Return the rest of the current line."""
        return self._text[self.at :].partition("\n")[0]

    def value(self) -> Any:
        """Parse the value at `at`; after a ValueError, `at` is the offset of the fault."""
        letter = self._text[self.at]
        if letter == "[":
            return [self.value() for _ in self._items("]")]
        if letter == "{":
            return self._mapping()
        return read_scalar(self._word())

    def _mapping(self) -> dict[Hashable, Any]:
        values: dict[Hashable, Any] = {}
        for _ in self._items("}"):
            word = self._word()
            key = read_scalar(word)
            colon = COLON.match(self._text, self.at)
            if colon is None or len(word) > MAX_KEY_LENGTH:
                raise ValueError("a name, a colon and a value are needed")
            self.at = colon.end()
            if word[0] not in "'\"" and self._letter() not in (" ", "\n"):
                raise ValueError("a space is needed behind the colon")
            self._skip_space()
            if key in values:
                raise ValueError(f"{key!r} stands there twice")
            values[key] = self.value()
        return values

    def _items(self, end: str) -> Iterator[None]:
        """Yield with `at` at each item, then move behind the closing bracket."""
        self.at += 1
        self._skip_space()
        while self._letter() != end:
            yield
            self._skip_space()
            if self._letter() == ",":
                self.at += 1
                self._skip_space()
            elif self._letter() != end:
                raise ValueError(f"a comma or {end} is missing")
        self.at += 1

    def _word(self) -> str:
        """Return the quoted or plain scalar at `at`, unparsed."""
        found = QUOTED.match(self._text, self.at) or WORD.match(self._text, self.at)
        if found is None or not AFTER.match(self._text, found.end()):
            raise ValueError("a value is missing, or needs quotes")
        self.at = found.end()
        return found[0]

    def _letter(self) -> str:
        return self._text[self.at : self.at + 1]

    def _skip_space(self) -> None:
        found = SPACE.match(self._text, self.at)
        assert found is not None
        self.at = found.end()
        if self.at == len(self._text):
            raise ValueError("the closing bracket is missing")
