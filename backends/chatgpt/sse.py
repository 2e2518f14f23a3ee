"""Decode server-sent events as services send them: bytes to the data of events. No I/O, no JSON.

Facts about the wire:
- An event is lines up to an empty one; its data lines are joined by newlines; a line that begins
  with a colon is a comment, which services send to keep a connection open.
- Lines end with LF, CRLF or CR; the space after `data:` may be missing.
- Some services leave out the empty line after the last event.
"""

from __future__ import annotations

FIELDS = (b":", b"event:", b"id:", b"retry:", b"data")
LONGEST_EVENT = 16 * 2**20  # bytes


class EventTooLarge(ValueError):
    """Report an event without an end."""


class SSEDecoder:
    """Decode one stream of events as its bytes come."""

    def __init__(self) -> None:
        self._buffer = b""  # a line that is not whole yet
        self._data: list[bytes] = []  # data lines of the event under way
        self._after_cr = False
        self.has_error_event = False  # an event was named "error"
        self.has_unknown_lines = False  # a line had none of FIELDS: this is no event stream

    def feed(self, received: bytes) -> list[bytes]:
        """Return the data of the events that these bytes complete; raises EventTooLarge."""
        if b"\r" in received or self._after_cr:
            received = self._normalize_line_ends(received)
        lines = (self._buffer + received).split(b"\n")
        self._buffer = lines.pop()
        found = [event for event in map(self._feed_line, lines) if event]
        if len(self._buffer) + sum(map(len, self._data)) > LONGEST_EVENT:
            raise EventTooLarge("an event is too large")
        return found

    def finish(self) -> list[bytes]:
        """Return the event for which only the empty line was missing, if there is one."""
        return [event for event in (self._feed_line(self._buffer), self._feed_line(b"")) if event]

    def _normalize_line_ends(self, received: bytes) -> bytes:
        if self._after_cr and received.startswith(b"\n"):
            received = received[1:]
        self._after_cr = received.endswith(b"\r") if received else False
        return received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _feed_line(self, line: bytes) -> bytes:
        """Read a line; return the data of the event that it ends."""
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            return b""
        if line:
            self.has_error_event |= line.replace(b" ", b"") == b"event:error"
            self.has_unknown_lines |= not line.startswith(FIELDS)
            return b""
        event, self._data = b"\n".join(self._data), []
        return event
