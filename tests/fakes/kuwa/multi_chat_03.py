"""Multi-Chat 0.3.4: reads raw text in windows of a tenth of a second, and cannot tell how it ended.

Facts: it reads byte by byte and looks at the clock after each, so a window is at least 0.1 s long
and ends after the first byte that arrives later; that byte may be a part of a character. A side
note is only collected if a window is exactly ">" and ends the block.
"""

from __future__ import annotations

import re
import time
from typing import ClassVar

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

WINDOW = 0.1  # seconds


class Reader03(Reader):
    """Read one answer as RequestChat of 0.3.4 does."""

    def __init__(self, *, room: bool = True, started: float = 0.0) -> None:
        self.seen = Seen()
        self._room, self._window_start, self._latest = room, started, started
        self._buffer, self._text, self._block = b"", "", ""
        self._buffering, self._broken = False, False

    def feed(self, data: bytes, at: float) -> None:
        """Take a block; a window that is over ends with its first byte."""
        if self._broken:
            return
        if at - self._latest > TIMEOUT:
            self._break(at)
            return
        self._latest = at
        if at - self._window_start >= WINDOW:
            self._close_window(data[:1], at)
            data = data[1:]
        self._buffer += data

    def end(self, at: float) -> None:
        """Publish what the last window holds, and save the answer."""
        if self._broken:
            return
        self._close_window(b"", at)
        if not self._text.strip(PHP_SPACE) and not self.seen.notes:
            self._text = EMPTY_ANSWER
        else:
            self.seen.ended = True  # an API caller whose answer is empty is never released
        if self._room:
            bare = re.sub(f"{OPEN_TAG}.*?{END_TAG}", "", self._text, flags=re.DOTALL)
            self.seen.saved = bare.strip(PHP_SPACE) + notes_block(self.seen.notes)
            self.seen.ended = True

    def _close_window(self, last: bytes, at: float) -> None:
        self._buffer += last
        self._window_start = at
        length = valid_prefix(self._buffer)
        message, self._buffer = self._buffer[:length].decode(), self._buffer[length:]
        if message and self._room:
            self._take(message, at)
        elif message:
            self._text += message
            self._publish(message, at)

    def _take(self, message: str, at: float) -> None:
        self._buffering = self._buffering or message.startswith("<")
        if not self._buffering:
            self._text += message
            self._show(at)
            return
        self._block += message
        if self._block not in OPEN_TAG and OPEN_TAG not in self._block:
            self._text += self._block
            self._buffering, self._block = False, ""
            self._show(at)
        elif message == ">" and self._block.endswith(END_TAG):
            self.seen.notes.append(note_of(self._block))
            self._buffering, self._block = False, ""

    def _show(self, at: float) -> None:
        self._publish(f"{self._text}...{notes_block(self.seen.notes)}", at)

    def _publish(self, text: str, at: float) -> None:
        self.seen.updates.append((at, text))

    def _break(self, at: float) -> None:
        self._broken, self.seen.ended, self.seen.saved = True, True, BROKEN
        self._publish(BROKEN, at)


class FrontEnd03(FrontEnd):
    """Multi-Chat 0.3.4; asks again while the Kernel is busy, every 10 s in the real one."""

    tokens: ClassVar = {"google_token": "g", "user_token": "5|tok"}
    reader = Reader03
    retry_seconds = 10.0

    def schedule(self, history_id: int) -> str:
        """Ask until there is an endpoint."""
        while (word := super().schedule(history_id)) == "BUSY":
            time.sleep(self.retry_seconds)
        return word
