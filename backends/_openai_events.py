"""Read server-sent events as services send them: bytes to the data of events. No I/O, no JSON.

Facts about the wire:
- An event is lines up to an empty one; its data lines are joined by newlines; a line that begins
  with a colon is a comment, which services send to keep a connection open.
- Lines end with LF, CRLF or CR; the space after `data:` may be missing.
- Some services leave out the empty line after the last event.
"""

from __future__ import annotations

FIELDS = (b":", b"event:", b"id:", b"retry:", b"data")
LONGEST_EVENT = 16 * 2**20  # bytes


class TooLarge(ValueError):
    """Report an event without an end."""


class Events:
    """Take events out of a stream of bytes as these come."""

    def __init__(self) -> None:
        self._rest = b""  # of a line that is not whole yet
        self._data: list[bytes] = []  # of the event that is being read
        self._after_cr = False
        self.failed = False  # an event said that it is an error
        self.strange = False  # a line was none of an event's

    def feed(self, received: bytes) -> list[bytes]:
        """Return the data of the events that these bytes complete; raises TooLarge."""
        if b"\r" in received or self._after_cr:
            received = self._plain_line_ends(received)
        lines = (self._rest + received).split(b"\n")
        self._rest = lines.pop()
        found = [event for event in map(self._take, lines) if event]
        if len(self._rest) + sum(map(len, self._data)) > LONGEST_EVENT:
            raise TooLarge("an event is too large")
        return found

    def finish(self) -> list[bytes]:
        """Return the event for which only the empty line was missing, if there is one."""
        return [event for event in (self._take(self._rest), self._take(b"")) if event]

    def _plain_line_ends(self, received: bytes) -> bytes:
        if self._after_cr and received.startswith(b"\n"):
            received = received[1:]
        self._after_cr = received.endswith(b"\r") if received else False
        return received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take(self, line: bytes) -> bytes:
        """Read a line; return the event that it ends."""
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            return b""
        if line:
            self.failed = self.failed or line.replace(b" ", b"") == b"event:error"
            self.strange = self.strange or not line.startswith(FIELDS)
            return b""
        event, self._data = b"\n".join(self._data), []
        return event
