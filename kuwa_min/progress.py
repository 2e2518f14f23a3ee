"""Show the progress of a long step: a bar on a terminal, a line per tenth everywhere else."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    LogStep = Callable[[str], None]  # writes one line about a step of the start

WIDTH = 30  # characters of the bar
REDRAW = 0.1  # seconds between two drawings
SHORT = 1  # seconds; a task that takes no longer needs no line


def step_logger(program: str) -> LogStep:
    """Return a function that writes one line, "program: text", to standard error."""

    def log_step(text: str) -> None:
        sys.stderr.write(f"{program}: {text}\n")
        sys.stderr.flush()

    return log_step


class Progress:
    """The progress of one task; its object is called with what is done and the total, in any unit.

    stream: where it is shown; standard error. at_tenth: called after each tenth if the stream is no
    terminal; the default writes a line.
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
        """Show that `done` of `total` are done; a call with 0 done starts the clock."""
        self.done, self.total = done, total
        if not done:
            self.started = time.monotonic()
        if self._is_terminal:
            self._draw()
        elif self.percent() // 10 > self._tenth:
            self._tenth = self.percent() // 10
            if time.monotonic() - self.started > SHORT:
                self._at_tenth(self)

    def percent(self) -> int:
        """Return the part that is done, from 0 to 100; 0 if the total is 0."""
        return min(100, 100 * self.done // (self.total or 1))

    def seconds_left(self) -> float | None:
        """Estimate the seconds to the end by the speed so far; None before the first step."""
        if not self.done:
            return None
        left = max(0, self.total - self.done)
        return (time.monotonic() - self.started) * left / self.done

    def end(self) -> float:
        """Clear the bar; return the seconds since the start."""
        if self._is_terminal:
            self._write("\r\x1b[K")
        return time.monotonic() - self.started

    def _write_tenth(self) -> None:
        self._write(f"{self.title}: {self._tenth * 10} %\n")

    def _draw(self) -> None:
        now = time.monotonic()
        if 0 < self.total <= self.done:
            self.end()  # the next line of the log begins in the first column
        elif now - self._drawn >= REDRAW:
            self._drawn = now
            full = WIDTH * self.done // (self.total or 1)
            bar = "#" * full + "." * (WIDTH - full)
            seconds = self.seconds_left()
            left = "" if seconds is None else f", {seconds:.0f} s left"
            self._write(f"\r\x1b[K{self.title} [{bar}] {self.percent():3d} %{left}")

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            return  # a closed terminal does not stop the task
