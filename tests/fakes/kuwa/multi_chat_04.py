"""Multi-Chat 0.4: reads whole lines, and those that begin with "data: " as framed chunks.

Facts: other lines are text with their newline; a framed line that is no JSON is dropped; log chunks
become text; what the page does not know is ignored. A missing exit code or a delta that is no list
ends the job, and the default error takes the answer's place.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from .multi_chat import (
    BROKEN,
    EMPTY_ANSWER,
    END_TAG,
    OPEN_TAG,
    PHP_SPACE,
    TIMEOUT,
    FrontEnd,
    Reader,
    Seen,
    note_of,
    notes_block,
    valid_prefix,
)

FRAME = b"data: "
DEPTH = 512  # the deepest JSON that PHP reads


class JobDiedError(Exception):
    """The job met something that PHP makes an exception of."""


class Reader04(Reader):
    """Read one answer as RequestChat of 0.4 does."""

    def __init__(self, *, room: bool = True, started: float = 0.0) -> None:
        self.seen = Seen()
        self._room, self._latest = room, started
        self._line, self._buffer, self._text, self._block = b"", b"", "", ""
        self._buffering, self._broken = False, False

    def feed(self, data: bytes, at: float) -> None:
        """Take a block and read the lines that it completes."""
        if at - self._latest > TIMEOUT:
            self._break(at)
        self._latest = at
        self._line += data
        *lines, self._line = self._line.split(b"\n")
        for line in lines:
            self._read(line + b"\n", at)

    def end(self, at: float) -> None:
        """Read the last line, and save the answer."""
        if self._line:
            self._read(self._line, at)
        if self._broken:
            return
        if not self._shown(final=True).strip(PHP_SPACE):
            self._add(EMPTY_ANSWER)
        self._finish()

    def _read(self, line: bytes, at: float) -> None:
        if self._broken:
            return
        try:
            self._buffer += self._unframe(line) if line.startswith(FRAME) else line
        except JobDiedError:
            self._break(at)
            return
        length = valid_prefix(self._buffer)
        message, self._buffer = self._buffer[:length].decode(), self._buffer[length:]
        if message:
            self._add(message)
            self.seen.updates.append((at, self._shown() if self._room else message))

    def _unframe(self, line: bytes) -> bytes:
        frame = _php_decode(line[len(FRAME) :])
        delta = frame.get("delta") if isinstance(frame, dict) else None
        if delta is not None and not isinstance(delta, list | dict):
            raise JobDiedError
        chunks = delta.values() if isinstance(delta, dict) else delta or []
        return "".join(map(self._text_of, chunks)).encode()

    def _text_of(self, chunk: Any) -> str:
        kind = chunk.get("type") if isinstance(chunk, dict) else None
        if kind == "text":
            return str(_inside(chunk, "text", "value"))
        if kind == "log":
            return f"\n[{_inside(chunk, 'log', 'level')}] {_inside(chunk, 'log', 'text')}"
        if kind == "exit_code":
            if "exit_code" not in chunk:
                raise JobDiedError
            self.seen.exit_code = chunk["exit_code"]
        return ""

    def _add(self, message: str) -> None:
        self._buffering = self._buffering or message.startswith("<")
        if not self._buffering:
            self._text += message
            return
        self._block += message
        if self._block not in OPEN_TAG and OPEN_TAG not in self._block:
            self._text += self._block
        elif self._block.endswith(END_TAG):
            self.seen.notes.append(note_of(self._block))
        else:
            return
        self._buffering, self._block = False, ""

    def _shown(self, *, final: bool = False) -> str:
        return self._text + ("" if final else "...") + notes_block(self.seen.notes)

    def _finish(self) -> None:
        answer = self._shown(final=True)
        if self._room and answer not in ("", "0"):  # what PHP calls empty is not saved
            self.seen.saved = answer
        self.seen.ended = True

    def _break(self, at: float) -> None:
        self._broken, self.seen.ended = True, True
        self.seen.saved, self.seen.exit_code = BROKEN, None
        self.seen.updates.append((at, BROKEN))


def _php_decode(data: bytes) -> Any:
    """Decode JSON as PHP does: None for what is malformed, too deep, or holds half a character."""
    try:
        value = json.loads(data, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if _depth(value) < DEPTH else None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _depth(value: Any) -> int:
    """Return how deep arrays and objects are nested, without recursion."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, list | dict)]:
        depth += 1
        level = [
            inner for one in level for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return depth


def _inside(chunk: dict[str, Any], *path: str) -> Any:
    value: Any = chunk
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return "" if value is None else value


class FrontEnd04(FrontEnd):
    """Multi-Chat 0.4; shows a failure while the Kernel is busy."""

    tokens: ClassVar = {"google_token": "g", "nim_token": "n", "user_token": "5|tok"}
    dropped_commands = ("prompts", "start-prompts", "auto-prompts", "welcome")
    reader = Reader04

    def headers(self) -> dict[str, str]:
        """Return the headers by which executors know 0.4."""
        return {
            "X-Kuwa-User-Id": str(self.user_id),
            "X-Kuwa-Api-Token": self.tokens["user_token"],
            "X-Kuwa-Api-Base-Urls": "http://localhost/v1.0/",
        }
