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
from typing import Any, NamedTuple

from kuwa_min.chat.bounded_json import whole

from .text_decoder import TextDecoder

LONGEST_EVENT = 16 * 2**20  # characters of one value
PATIENT = 2**18  # characters from which on an unfinished value is parsed again only once it grew
FIELD = re.compile(r"(data|event|id|retry|error|)(?::(.*))?", re.DOTALL)
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])', re.DOTALL)
JSON_START = re.compile(r'[{\["\d\-tfn]')
BOM = "\ufeff"
BLANK = " \t" + BOM
BLANKS, EMPTY_LINES, BETWEEN, SPACE = map(re.compile, (f"[{BLANK}]*", r"\n*", r"[ \t\n,]*", r"\s*"))
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
        self._at = 0  # where in the buffer the part begins that was not read yet
        self._searched = 0  # characters of that part in which no line ends
        self._events: list[Event] = []  # that this call of feed() or finish() has found
        self._scanner = json.JSONDecoder(strict=False, parse_int=whole)
        self._data: list[str] = []  # data lines that are no whole value yet
        self._held = 0  # characters of these lines
        self._name = ""  # of the server-sent event under way
        self._is_named_error = False  # it is called error, and had no data yet
        self._in_array = self._has_fields = False
        self._retry_at = 0  # length of the buffer from which on its value is parsed again
        self.is_truncated = False  # the body ended within a value

    def feed(self, received: bytes) -> list[Event]:
        """Return the events that these bytes complete."""
        self._events = []
        self._buffer += self._text.feed(received)
        self._read()
        if len(self._buffer) + self._held > LONGEST_EVENT:
            raise UnreadableBody("an event is too large")
        return self._events

    def finish(self) -> list[Event]:
        """Return what is left at the end of the body; what is not whole is dropped."""
        self._events = []
        self._buffer += self._text.finish()
        self._retry_at = 0
        self._read()
        whole = len(self._events)
        rest, self._buffer = self._buffer.strip(), ""
        if rest.startswith(("{", "[", "]")) and not Event(NotJson(rest)).is_done:
            self._emit(NotJson(rest))
        else:
            self._read_line(rest)
        self._end_event()
        last = self._events[whole:]
        self._events[whole:] = [one for one in last if not self._is_cut(one)]
        self.is_truncated |= self._in_array or len(self._events) < whole + len(last)
        return self._events

    def _emit(self, data: Any, name: str = "") -> None:
        self._events.append(Event(data, name))

    def _is_cut(self, event: Event) -> bool:
        """Tell whether an event at the end is only the beginning of one."""
        if not isinstance(event.data, NotJson) or event.is_done or event.name == "error":
            return False
        if not event.is_damaged:
            return self._has_fields
        return sum(bool(one[1]) - bool(one[2]) for one in BRACKETS.finditer(event.data)) > 0

    def _read(self) -> None:
        """Take events from the buffer until it holds only the beginning of one."""
        while self._at < len(self._buffer) and self._read_next():
            pass
        self._buffer = self._buffer[self._at :]
        self._at = 0

    def _read_next(self) -> bool:
        """Take blanks, a piece of JSON or a line; return False if that is not whole yet."""
        first = self._buffer[self._at]
        if first in BLANK:
            self._skip(BLANKS)
            return True
        if first == "\n":
            self._skip(EMPTY_LINES)
            if self._data or self._name:
                self._end_event()
            return True
        if self._is_json_next(first):
            return self._read_json()
        end = self._buffer.find("\n", self._at + self._searched)
        if end < 0:
            self._searched = len(self._buffer) - self._at
            return False
        line, self._at, self._searched = self._buffer[self._at : end], end + 1, 0
        self._read_line(line)
        return True

    def _skip(self, blanks: re.Pattern[str]) -> None:
        self._at = _end(blanks, self._buffer, self._at)

    # -- JSON without fields around it

    def _is_json_next(self, first: str) -> bool:
        """Tell whether JSON is next: not a field, an empty line or [DONE]."""
        if self._in_array or first == "{":
            return True
        return first == "[" and self._buffer[self._at + 1 : self._at + 2] not in ("d", "D")

    def _read_json(self) -> bool:
        """Take one bracket or value from the buffer; return False if that is not whole yet."""
        if self._in_array:
            self._skip(BETWEEN)
        first = self._buffer[self._at : self._at + 1]
        if first == "[" and not self._in_array:
            self._in_array = len(self._buffer) > self._at + 1
            self._at += self._in_array
            return self._in_array
        if first == "]" and self._in_array:
            self._in_array = False
            self._at += 1
            return True
        if first and not JSON_START.match(first):
            self._in_array = False
            self._emit(NotJson("["))
            return True
        return len(self._buffer) - self._at >= self._retry_at and self._read_value()

    def _read_value(self) -> bool:
        try:
            value, end = self._decode(self._buffer, self._at)
        except ValueError:
            size = len(self._buffer) - self._at
            self._retry_at = size + size // 4 if size > PATIENT else 0
            return False
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and not self._buffer[end : end + 1].strip(".eE"):
            return False  # more of it may come
        self._at, self._retry_at = end, 0
        self._emit(value)
        return True

    def _decode(self, text: str, start: int) -> tuple[Any, int]:
        """Return the value at this place of a text, and where it ends; raises ValueError."""
        try:
            return self._scanner.raw_decode(text, start)
        except RecursionError:
            raise UnreadableBody("JSON that is nested too deeply") from None

    # -- server-sent events

    def _read_line(self, line: str) -> None:
        """Read a whole line that begins with no JSON."""
        if line.startswith("data:"):
            self._has_fields = True
            self._read_data(line[5:].strip(BLANK))
        elif not line.strip():
            if self._data or self._name:
                self._end_event()
        elif field := FIELD.fullmatch(line):
            self._has_fields = True
            self._read_field(field[1], (field[2] or "").strip())
        else:
            self._emit(NotJson(line.strip()))

    def _read_field(self, name: str, value: str) -> None:
        if name == "event":
            self._name, self._is_named_error = value, value == "error"
        elif name == "error":
            for one in self._values(value) or [NotJson(value)]:
                self._emit(one, "error")

    def _read_data(self, value: str) -> None:
        """Read a data line: a whole value is handed out at once, empty line or not."""
        while value.startswith("data:"):
            value = value[5:].lstrip()
        if self._data and self._data[0].startswith(("{", "[")):
            self._hold(value)
            return
        found = self._values(value)
        if found is None:
            self._hold(value)
            return
        self._end_text()
        self._is_named_error = False
        for one in found:
            self._emit(one, self._name)

    def _hold(self, value: str) -> None:
        self._data.append(value)
        self._held += len(value) + 1

    def _take_held(self) -> str:
        """Return the data lines that were held, as one text."""
        text, self._data, self._held = "\n".join(self._data), [], 0
        return text

    def _values(self, text: str) -> list[Any] | None:
        """Return the JSON values that a text is made of, those of an array one by one; or None."""
        found: list[Any] = []
        end = 0
        while end < len(text):
            try:
                value, end = self._decode(text, end)
            except ValueError:
                return None
            found += value if isinstance(value, list) else [value]
            end = _end(SPACE, text, end)
        return found

    def _end_event(self) -> None:
        """Hand out what an event still holds at its end."""
        text = "\n".join(self._data)
        values = self._values(text) if text.startswith(("{", "[")) else None
        if values is not None:
            self._take_held()
            self._is_named_error = False
            for one in values:
                self._emit(one, self._name)
        self._end_text()
        if self._is_named_error:
            self._emit(NotJson(), "error")
        self._name, self._is_named_error = "", False

    def _end_text(self) -> None:
        """Hand out data lines that are no JSON."""
        text = self._take_held().strip()
        if text:
            self._is_named_error = False
            self._emit(NotJson(text), self._name)


def _end(blanks: re.Pattern[str], text: str, start: int) -> int:
    """Return where the blanks at this place of a text end."""
    found = blanks.match(text, start)
    return found.end() if found else start
