"""Show how far a long step is: a bar on a terminal, a line per tenth everywhere else."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

PROGRAM = os.path.basename(sys.argv[0])  # now: an executor's file will stand there later
WIDTH = 30  # characters of the bar
EVERY = 0.1  # seconds between two drawings
TENTHS = 10
SHORT = 1  # seconds; what takes no longer is over before anybody wonders


def tell(text: str) -> None:
    """Write one line about a step of the start to standard error."""
    sys.stderr.write(f"{PROGRAM}: {text}\n")
    sys.stderr.flush()


class Progress:
    """Report the steps of one task; call it with what is done and what is to do, in bytes."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title = title
        self.stream = stream or sys.stderr
        self.started = time.monotonic()
        self._is_terminal = self.stream.isatty()
        self._drawn, self._tenth = 0.0, 0

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are done."""
        if self._is_terminal:
            self._draw(done, total)
        elif total and done * TENTHS // total > self._tenth:
            self._tenth = done * TENTHS // total
            if time.monotonic() - self.started > SHORT:
                self._say(f"{self.title}: {self._tenth * 10} %\n")

    def end(self) -> float:
        """Clear the bar; return the seconds since the beginning."""
        if self._is_terminal:
            self._say("\r\x1b[K")
        return time.monotonic() - self.started

    def _draw(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._drawn < EVERY:
            return
        self._drawn = now
        full = WIDTH * done // (total or 1)
        left = (now - self.started) * (total - done) / done if done else 0
        bar = "#" * full + "." * (WIDTH - full)
        percent = 100 * done // (total or 1)
        self._say(f"\r\x1b[K{self.title} [{bar}] {percent:3d} %, {left:.0f} s left")

    def _say(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
