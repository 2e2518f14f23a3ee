"""Collect the /status of executors for the chat page.

Registered executors are asked by HTTP; those of Kuwa have no /status, and are left out. The
executor in this process is asked directly until it has registered, which it does once it has
loaded.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from kuwa_min.chat import bounded_json
from kuwa_min.process.supervision import spawn

from .records import ExecutorRecord, RecordTable, origin
from .relay import read_status

CACHE_SECONDS = 0.5  # for which a result serves further requests
MAX_EXECUTORS = MAX_ACCESS_CODES = 16  # that are asked; of each that are shown
MAX_LENGTH = 200  # characters of a text
STOPPING = "stopping"
NUMBERS = ("slots", "busy_slots", "waiting", "percent", "seconds_left")
TEXTS = ("state", "what")
Status = dict[str, Any]


class StatusReader:
    """Reads the status of every executor; for any thread.

    own: renders the status of the executor in this process as JSON; None if there is none.
    """

    def __init__(self, records: RecordTable, own: Callable[[], bytes] | None) -> None:
        self._records, self._own = records, own
        self._lock = threading.Lock()
        self._found: list[Status] = []
        self._read_at = -CACHE_SECONDS  # time.monotonic()

    def read(self) -> list[Status]:
        """Return the status of each executor that has one.

        `origin` is its address as in the table, "" if it has not registered; `progress` is None, or
        has what, percent and seconds_left.
        """
        with self._lock:
            if time.monotonic() - self._read_at > CACHE_SECONDS:
                self._found = [*self._unregistered(), *self._registered()]
                self._read_at = time.monotonic()
            return self._found

    def _unregistered(self) -> list[Status]:
        status = _parse(self._own().decode(), "") if self._own else None
        is_starting = status and not status["registered"] and status.get("state") != STOPPING
        return [status] if status and is_starting else []

    def _registered(self) -> list[Status]:
        records = {"://".join(origin(one.endpoint) or ()): one for one in self._records.all()}
        asked = dict([*records.items()][:MAX_EXECUTORS])
        found: dict[str, Status | None] = {}

        def ask(address: str, record: ExecutorRecord) -> None:
            found[address] = _parse(read_status(record) or "", address)

        threads = []
        with contextlib.suppress(RuntimeError):  # the system has no thread left
            for address, record in asked.items():
                threads.append(spawn("status", partial(ask, address, record)))
        for thread in threads:
            thread.join()
        return [status for address in asked if (status := found.get(address))]


def _parse(text: str, address: str) -> Status | None:
    """Return the fields of a status that the page shows; None if the text is no status."""
    try:
        read = bounded_json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(read, dict) or not isinstance(read.get("access_codes"), list):
        return None
    progress = read.get("progress")
    return {
        "origin": address,
        "access_codes": [str(one)[:MAX_LENGTH] for one in read["access_codes"][:MAX_ACCESS_CODES]],
        "registered": bool(read.get("registered")),
        "progress": _fields(progress) if isinstance(progress, dict) else None,
        **_fields(read),
    }


def _fields(read: dict[str, Any]) -> Status:
    """Return the known fields of the right type."""
    numbers = {key: read[key] for key in NUMBERS if isinstance(read.get(key), (int, float))}
    return numbers | {key: str(read[key])[:MAX_LENGTH] for key in TEXTS if key in read}
