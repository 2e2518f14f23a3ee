"""Show how far a long step is: a bar on a terminal, a line per tenth everywhere else."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
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
    """Report the steps of one task; call it with what is done and what is to do, in any unit.

    Where no terminal is, at_tenth is called with each tenth; without one, that is a line.
    """

    def __init__(
        self,
        title: str,
        stream: TextIO | None = None,
        at_tenth: Callable[[Progress], None] | None = None,
    ) -> None:
        self.title = title
        self.stream = stream or sys.stderr
        self.started = time.monotonic()
        self.done = self.total = 0
        self._at_tenth = at_tenth or Progress._write_tenth
        self._is_terminal = self.stream.isatty()
        self._drawn, self._tenth = 0.0, 0

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done; the clock starts when `done` is 0."""
        self.done, self.total = done, total
        if not done:
            self.started = time.monotonic()
        if self._is_terminal:
            self._draw()
        elif self.percent() * TENTHS // 100 > self._tenth:
            self._tenth = self.percent() * TENTHS // 100
            if time.monotonic() - self.started > SHORT:
                self._at_tenth(self)

    def percent(self) -> int:
        """Return how much is done, from 0 to 100; 0 of nothing."""
        return min(100, 100 * self.done // (self.total or 1))

    def seconds_left(self) -> float | None:
        """Return the seconds to the end at the speed so far; None before the first step."""
        if not self.done:
            return None
        left = max(0, self.total - self.done)
        return (time.monotonic() - self.started) * left / self.done

    def end(self) -> float:
        """Clear the bar; return the seconds since the beginning."""
        if self._is_terminal:
            self._say("\r\x1b[K")
        return time.monotonic() - self.started

    def _write_tenth(self) -> None:
        self._say(f"{self.title}: {self._tenth * 10} %\n")

    def _draw(self) -> None:
        now = time.monotonic()
        if 0 < self.total <= self.done:
            self.end()  # what the log says next begins in the first column
        elif now - self._drawn >= EVERY:
            self._drawn = now
            full = WIDTH * self.done // (self.total or 1)
            bar = "#" * full + "." * (WIDTH - full)
            seconds = self.seconds_left()
            left = "" if seconds is None else f", {seconds:.0f} s left"
            self._say(f"\r\x1b[K{self.title} [{bar}] {self.percent():3d} %{left}")

    def _say(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            return  # a terminal that was closed is no reason to stop the task
