"""Tell the tags that a thought is about from those that mark it, by the line that they stand in.

One in quotes or backticks is a word; so is an opening one within a line of text that does not close
it: markup that is meant stands alone in its line. No I/O.
"""

from __future__ import annotations

QUOTES = ("`", '"')  # no apostrophe, which words have


class Line:
    """The line of a thought that is being written."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._last = ""  # character
        self._open_quotes: set[str] = set()
        self._is_blank = True
        self._opened = 0  # tags in it that are not closed yet

    @property
    def quote(self) -> str:
        """Return the quote that opens at its end, so that a tag may be quoted; "" if none does."""
        return self._last if self._last in self._open_quotes else ""

    def open(self) -> None:
        """Count an opening tag."""
        self._opened += 1

    def close(self) -> None:
        """Count a closing tag."""
        self._opened = max(0, self._opened - 1)

    def feed(self, text: str) -> int:
        """Add text; return how many opening tags turn out to be words, as their line ends."""
        end, newline, rest = text.partition("\n")
        self._add(end)
        if not newline:
            return 0
        words = 0 if self._is_blank else self._opened
        self._begin()
        self._add(rest.rpartition("\n")[2])
        return words

    def _add(self, text: str) -> None:
        self._last = text[-1:] or self._last
        self._is_blank = self._is_blank and not text.strip()
        for quote in QUOTES:
            if text.count(quote) % 2:
                self._open_quotes ^= {quote}
