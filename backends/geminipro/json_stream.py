"""Read the objects of a JSON array while it is still coming: bytes in, objects out.

Knows nothing of HTTP, nor of what the objects say.
"""

from __future__ import annotations

import json
from typing import Any

from kuwa_min.chat.text import Utf8Decoder

LARGEST = 4 * 2**20  # characters of one object
BETWEEN = " \t\r\n,"  # what may stand before an object


class MalformedResponse(Exception):
    """Say in half a sentence why this is no array of objects, without quoting it."""


class TruncatedResponse(MalformedResponse):
    """An array that ended before its closing bracket."""


class JsonArrayReader:
    """Read one array; each object is returned when its last brace has come."""

    def __init__(self) -> None:
        self._decoder, self._scanner = Utf8Decoder(), json.JSONDecoder()
        self._buffer = self._received = ""
        self._is_open = self._is_closed = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the objects that these bytes complete; raises MalformedResponse."""
        if len(self._buffer) > LARGEST:
            raise MalformedResponse("an object of it is too long")
        self._received = self._decoder.feed(data)
        self._buffer += self._received
        found = []
        while (one := self._next()) is not None:
            found.append(one)
        return found

    def finish(self) -> None:
        """Take the end of the body; raises TruncatedResponse if the array is not closed."""
        if not self._is_closed:
            raise TruncatedResponse("it broke off" if self._is_open else "it is empty")

    def _next(self) -> dict[str, Any] | None:
        self._skip_brackets()
        if not self._buffer:
            return None
        if self._is_closed or not self._is_open or self._buffer[0] != "{":
            raise MalformedResponse("it is no array of objects")
        return self._read_object()

    def _skip_brackets(self) -> None:
        self._buffer = self._buffer.lstrip(BETWEEN)
        if not self._is_open and self._buffer.startswith("["):
            self._is_open, self._buffer = True, self._buffer[1:].lstrip(BETWEEN)
        if self._is_open and not self._is_closed and self._buffer.startswith("]"):
            self._is_closed, self._buffer = True, self._buffer[1:].strip()

    def _read_object(self) -> dict[str, Any] | None:
        """Return the object at the start of the buffer; None if it is not whole yet."""
        if "}" not in self._received:  # parse a long object once a brace, not once a segment
            return None
        try:
            found, end = self._scanner.raw_decode(self._buffer)
        except RecursionError:
            raise MalformedResponse("it is nested too deeply") from None
        except ValueError:
            return None
        self._buffer = self._buffer[end:]
        return found  # type: ignore[no-any-return]
