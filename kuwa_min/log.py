"""Write one safe line per event, without ever making anybody wait for the reader of the log."""

from __future__ import annotations

import logging
import queue
import re
import sys
import threading
from typing import TextIO

LEVELS = ("NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CAPACITY = 2000  # lines that may wait for a reader of the log; later ones are counted and dropped
SECRET_LENGTH = 6  # shorter "secrets" would blacken ordinary words
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_secrets: set[str] = set()


def hide(secret: str | None) -> None:
    """Never let this text appear in a log line."""
    if secret and len(secret) >= SECRET_LENGTH:
        _secrets.add(secret)


def one_line(text: str) -> str:
    """Escape whatever could forge a line or drive a terminal."""
    return UNSAFE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class SafeFormatter(logging.Formatter):
    """Format a record as one line without control characters and without known secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for this record."""
        line = super().format(record)
        for secret in _secrets:
            line = line.replace(secret, "***")
        return one_line(line)


class PatientHandler(logging.Handler):
    """Hand lines to a thread that writes them: a full pipe or disk stalls nobody else."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(CAPACITY)
        self._dropped = 0
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, or count it as lost when nobody reads."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            lost, self._dropped = self._dropped, 0
            if lost:
                line = f"{line} ({lost} lines before it were lost: nobody read the log)"
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                continue  # a full disk or a closed pipe is no reason to stop serving

    def close(self) -> None:
        """Write what is queued, for at most a second."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._writer.join(1)
        super().close()


def configure(level: str) -> None:
    """Send every record of at least this level to standard error."""
    logging.raiseExceptions = False
    stream = sys.stderr
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    handler = PatientHandler(stream)
    handler.setFormatter(SafeFormatter(FORMAT))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
