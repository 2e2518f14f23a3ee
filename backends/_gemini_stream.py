"""Take objects out of a JSON array while it is still coming: bytes in, objects out.

Knows nothing of HTTP, nor of what the objects say.
"""

from __future__ import annotations

import json
from typing import Any

from kuwa_min.text import Utf8Decoder

LARGEST = 4 * 2**20  # characters that may wait for their last brace
BETWEEN = " \t\r\n,"  # what may stand before an object


class Garbage(Exception):
    """Say in half a sentence why what came is no array of objects, without quoting it."""


class BrokeOff(Garbage):
    """Say that an array ended before it was whole."""


class ArrayReader:
    """Read one array; an object is handed out when its last brace is there."""

    def __init__(self) -> None:
        self._decoder, self._scanner = Utf8Decoder(), json.JSONDecoder()
        self._text = self._fresh = ""
        self._is_open = self._is_closed = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the objects that these bytes complete; raises Garbage."""
        if len(self._text) > LARGEST:
            raise Garbage("an object of it is too long")
        self._fresh = self._decoder.feed(data)
        self._text += self._fresh
        found = []
        while (one := self._next()) is not None:
            found.append(one)
        return found

    def finish(self) -> None:
        """Take note that no more comes; raises BrokeOff if the array is not whole."""
        if not self._is_closed:
            raise BrokeOff("it broke off" if self._is_open else "it is empty")

    def _next(self) -> dict[str, Any] | None:
        self._pass_brackets()
        if not self._text:
            return None
        if self._is_closed or not self._is_open or self._text[0] != "{":
            raise Garbage("it is no array of objects")
        return self._take()

    def _pass_brackets(self) -> None:
        self._text = self._text.lstrip(BETWEEN)
        if not self._is_open and self._text.startswith("["):
            self._is_open, self._text = True, self._text[1:].lstrip(BETWEEN)
        if self._is_open and not self._is_closed and self._text.startswith("]"):
            self._is_closed, self._text = True, self._text[1:].strip()

    def _take(self) -> dict[str, Any] | None:
        """Return the object that the text begins with, or nothing if its end is still to come."""
        if "}" not in self._fresh:  # a long one is not read again for every piece of it
            return None
        try:
            found, end = self._scanner.raw_decode(self._text)
        except RecursionError:
            raise Garbage("it is nested too deeply") from None
        except ValueError:
            return None
        self._text = self._text[end:]
        return found  # type: ignore[no-any-return]
