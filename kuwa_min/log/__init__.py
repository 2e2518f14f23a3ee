"""Logging to standard error: one safe line per record, written by a thread of its own.

No other thread waits for a slow or stuck reader of the log.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections import deque
from typing import TextIO

from kuwa_min.errors import KuwaError, traceback_line

from . import redaction

LEVELS = ("NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LONGEST_LINE = 64 << 10  # characters, before some are escaped
LONGEST_SECRET = 4096  # characters of one that is hidden also where a line is cut
CAPACITY = 2000  # lines that wait to be written; more are counted and dropped
CLOSE_TIMEOUT = 3.0  # seconds in which queued lines must be written at the end
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}  # others are written as numbers


def one_line(text: str) -> str:
    """Escape characters that could forge a log line or control a terminal."""
    return UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    if found[0] in SHORT:
        return SHORT[found[0]]
    return f"\\u{number:04x}" if number > 0xFF else f"\\x{number:02x}"


def write_error(program: str, error: KuwaError) -> int:
    """Write a fatal error to standard error, in one line; return the exit code."""
    line = one_line(redaction.clean_command_line(str(error), sys.argv[1:]))
    sys.stderr.write(f"{program}: error: {line}\n")
    return error.exit_code


class SafeFormatter(logging.Formatter):
    """Format a record as one line without control characters and without known secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for this record; a traceback follows its message."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        line = self.formatMessage(record)
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line = f"{line} | {traceback_line(error, with_message=True)}"
        return one_line(_shortened(line))


def _shortened(line: str) -> str:
    """Hide secrets, and cut what is too long; what is left of a secret at the cut goes, too."""
    cut = len(line) - LONGEST_LINE
    if cut <= 0:
        return redaction.clean(line)
    kept = redaction.clean(line[:LONGEST_LINE])[:-LONGEST_SECRET]
    return f"{kept} ... ({cut + LONGEST_SECRET} more characters)"


class BackgroundHandler(logging.Handler):
    """Queue lines for a thread that writes them: a full pipe or disk blocks no other thread."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._lost, self._closed = 0, False
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, or drop and count it if the queue is full."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - a library's bad log call
            line = f"a record of {record.name} could not be formatted: {type(error).__name__}"
        with self._changed:
            if len(self._lines) >= CAPACITY:
                self._lost += 1
                return
            if self._lost:
                line = f"{line} ({self._lost} lines before it were lost: nobody read the log)"
                self._lost = 0
            self._lines.append(line)
            self._changed.notify()

    def _write(self) -> None:
        while True:
            try:
                if (line := self._next()) is None:
                    return
                self._stream.write(line + "\n")
                self._stream.flush()
            except Exception:  # noqa: BLE001 - it cannot be logged
                continue  # a full disk or a closed pipe does not stop serving

    def _next(self) -> str | None:
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closed)
            return self._lines.popleft() if self._lines else None

    def close(self) -> None:
        """Write what is queued, for CLOSE_TIMEOUT at most."""
        with self._changed:
            if self._closed:
                return
            if self._lost:
                self._lines.append(f"{self._lost} lines were lost here: nobody read the log")
                self._lost = 0
            self._closed = True
            self._changed.notify()
        self._writer.join(CLOSE_TIMEOUT)
        super().close()


def configure(level: str) -> None:
    """Send every record of this level or above to standard error, in place of former handlers."""
    logging.raiseExceptions = False
    stream = sys.stderr
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    handler = BackgroundHandler(stream)
    handler.setFormatter(SafeFormatter(FORMAT))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
