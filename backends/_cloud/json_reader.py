"""Read the JSON values of a service's answer, however its body frames them. No I/O.

What a body is shows in its bytes, not in its Content-Type, which servers and gateways get wrong.
Facts about the wire:
- Server-sent events: fields in lines, an empty line ends an event, `:` begins a comment. Lines end
  with LF, CRLF or CR; the space after `data:` may be missing, `data:` may stand there twice, and
  some services leave out the empty lines. A value may take several `data:` lines.
- llama-server of 2025 sends `error: {...}`, which is no field of server-sent events.
- Other bodies: one JSON value, perhaps over many lines; one a line (NDJSON); an array, of which
  each element is handed out as soon as it is whole (Google). `data: [DONE]` may follow any of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from .text_decoder import TextDecoder

LONGEST_EVENT = 16 * 2**20  # characters of one value
PATIENT = 2**18  # characters from which on an unfinished value is parsed again only once it grew
FIELD = re.compile(r"(data|event|id|retry|error|):(.*)|(data|event|id|retry)()", re.DOTALL)
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])', re.DOTALL)
JSON_START = re.compile(r'[{\["\d\-tfn]')
BOM = "\ufeff"
DONE = re.compile(r"\[done\]|done", re.IGNORECASE)


class UnreadableBody(Exception):
    """Report a value without an end, or nested too deeply."""


class NotJson(str):
    """Text that stands where JSON was expected."""


class Event(NamedTuple):
    """A value of the body, and the name of the server-sent event that brought it."""

    data: Any  # what the JSON says; NotJson for other text
    name: str = ""

    @property
    def is_done(self) -> bool:
        """Tell whether this says that the answer is whole."""
        return isinstance(self.data, str) and DONE.fullmatch(self.data.strip()) is not None

    @property
    def is_damaged(self) -> bool:
        """Tell whether this was to be JSON and is none: a part of the answer is lost."""
        return isinstance(self.data, NotJson) and self.data.startswith(("{", "["))


class JsonReader:
    """Read one body as its bytes come: feed() them, then finish().

    Both return the events that became whole, and raise UnreadableBody.
    """

    def __init__(self) -> None:
        self._text = TextDecoder()
        self._buffer = ""
        self._scanner = json.JSONDecoder(strict=False)
        self._data: list[str] = []  # data lines that are no whole value yet
        self._name = ""
        self._is_named_error = False  # the event under way is one, and had no data yet
        self._in_array = self._has_fields = False
        self._retry_at = 0  # length of the buffer from which on its value is parsed again
        self.is_truncated = False  # the body ended within a value

    def feed(self, received: bytes) -> list[Event]:
        """Return the events that these bytes complete."""
        self._buffer += self._text.feed(received)
        found = list(self._read())
        if len(self._buffer) + sum(map(len, self._data)) > LONGEST_EVENT:
            raise UnreadableBody("an event is too large")
        return found

    def finish(self) -> list[Event]:
        """Return what is left at the end of the body; what is not whole is dropped."""
        self._buffer += self._text.finish()
        self._retry_at = 0
        found = list(self._read())
        rest, self._buffer = self._buffer.strip(), ""
        if rest and not rest.startswith(("{", "[", "]")):
            found += self._read_last_line(rest)
        elif rest:
            found += self._not_whole(rest)
        found += [one for one in self._end_event() if not self._drops(one)]
        self.is_truncated |= self._in_array
        return found

    def _read(self) -> Iterator[Event]:
        """Yield events until the buffer holds only the beginning of one."""
        while self._buffer:
            self._buffer = self._buffer.lstrip(" \t" + BOM)
            if self._is_json_next():
                before = len(self._buffer)
                yield from self._read_json()
                if len(self._buffer) == before:
                    return
                continue
            line, end, rest = self._buffer.partition("\n")
            if not end:
                return
            self._buffer = rest
            yield from self._read_line(line)

    # -- JSON without fields around it

    def _is_json_next(self) -> bool:
        """Tell whether the buffer begins with JSON; an empty line or a field is none."""
        first, second = self._buffer[:1], self._buffer[1:2]
        if self._in_array or first == "{":
            return True
        if self._data or first != "[":
            return False
        return second not in ("d", "D")  # of [DONE]

    def _read_json(self) -> Iterator[Event]:
        """Take one bracket or value from the buffer; leave it as it is if that is not whole."""
        self._buffer = self._buffer.lstrip(" \t\n," if self._in_array else " \t\n")
        first = self._buffer[:1]
        if first == "[" and not self._in_array:
            if len(self._buffer) > 1:
                self._in_array, self._buffer = True, self._buffer[1:]
        elif first == "]" and self._in_array:
            self._in_array, self._buffer = False, self._buffer[1:]
        elif first and not JSON_START.match(first):
            self._in_array = False
            yield Event(NotJson("["))
        elif len(self._buffer) >= self._retry_at:
            yield from self._read_value()

    def _read_value(self) -> Iterator[Event]:
        try:
            value, end = self._decode(self._buffer)
        except ValueError:
            size = len(self._buffer)
            self._retry_at = size + size // 4 if size > PATIENT else 0
            return
        self._buffer, self._retry_at = self._buffer[end:], 0
        yield Event(value)

    def _decode(self, text: str) -> tuple[Any, int]:
        """Return the value at the start of a text, and where it ends; raises ValueError."""
        try:
            return self._scanner.raw_decode(text)
        except RecursionError:
            raise UnreadableBody("JSON that is nested too deeply") from None

    # -- server-sent events

    def _read_line(self, line: str) -> Iterator[Event]:
        """Read a whole line that begins with no JSON."""
        field = FIELD.fullmatch(line)
        if not line.strip():
            yield from self._end_event()
        elif not field:
            yield Event(NotJson(line.strip()))
        else:
            self._has_fields = True
            yield from self._read_field(field[1] or field[3] or "", field[2] or "")

    def _read_field(self, name: str, value: str) -> Iterator[Event]:
        value = value.strip(" \t" + BOM)
        if name == "event":
            self._name, self._is_named_error = value, value == "error"
        elif name == "error":
            yield from (Event(one, "error") for one in self._values(value) or [NotJson(value)])
        elif name == "data":
            while value.startswith("data:"):
                value = value[5:].lstrip()
            yield from self._read_data(value)

    def _read_data(self, value: str) -> Iterator[Event]:
        """Read a data line: a whole value is handed out at once, empty line or not."""
        if self._data and self._data[0].startswith(("{", "[")):
            self._data.append(value)
            return
        found = self._values(value)
        if found is None:
            self._data.append(value)
            return
        yield from self._end_text()
        self._is_named_error = False
        yield from (Event(one, self._name) for one in found)

    def _values(self, text: str) -> list[Any] | None:
        """Return the JSON values that a text is made of, those of an array one by one; or None."""
        found: list[Any] = []
        while text:
            try:
                value, end = self._decode(text)
            except ValueError:
                return None
            found += value if isinstance(value, list) else [value]
            text = text[end:].lstrip()
        return found

    def _end_event(self) -> Iterator[Event]:
        """Yield what an event still holds at its end."""
        text = "\n".join(self._data)
        values = self._values(text) if text.startswith(("{", "[")) else None
        if values is not None:
            self._data, self._is_named_error = [], False
            yield from (Event(one, self._name) for one in values)
        yield from self._end_text()
        if self._is_named_error:
            yield Event(NotJson(), "error")
        self._name, self._is_named_error = "", False

    def _end_text(self) -> Iterator[Event]:
        """Yield data lines that are no JSON."""
        text, self._data = "\n".join(self._data).strip(), []
        if text:
            self._is_named_error = False
            yield Event(NotJson(text), self._name)

    # -- the end of the body

    def _read_last_line(self, line: str) -> list[Event]:
        """Return the events of a line without an end; the beginning of one is dropped."""
        had_fields = self._has_fields
        found = list(self._read_line(line))
        if not had_fields and not self._has_fields:
            return found
        return [one for one in found if not self._drops(one)]

    def _not_whole(self, rest: str) -> list[Event]:
        event = Event(NotJson(rest))
        return [] if self._drops(event) else [event]

    def _drops(self, event: Event) -> bool:
        """Tell whether an event at the end is the beginning of one, and remember that."""
        if not isinstance(event.data, NotJson) or event.is_done or event.name == "error":
            return False
        depth = sum(bool(one[1]) - bool(one[2]) for one in BRACKETS.finditer(event.data))
        is_cut = depth > 0 or not event.is_damaged
        self.is_truncated |= is_cut
        return is_cut
