"""The Kernel of 0.4: that of 0.3.4 with read, debug as JSON, shutdown and update.

Facts: shutdown and update only find a record that is equal to what was sent, ids as numbers, so
never one that is reserved; shutdown leaves the record to the executor, which must unregister.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from .kernel_03 import Kernel, Routes, Routes03, get, kernel_03

SHUTDOWN_TIMEOUT = 10.0


class Routes04(Routes03):
    """One request to the Kernel of 0.4."""

    def gets(self) -> Routes:
        """Return what answers GET: read, too."""
        return {**super().gets(), "/v1.0/worker/read": self._read}

    def posts(self) -> Routes:
        """Return what answers POST: shutdown and update, too."""
        more = {"/v1.0/worker/shutdown": self._shutdown, "/v1.0/worker/update": self._update}
        return {**super().posts(), **more}

    def _read(self) -> None:
        self.reply_json(self.server.records, sort=True)

    def _debug(self) -> None:
        if self.headers.get("Accept") != "application/json":
            super()._debug()
            return
        keys = ("endpoint", "status", "job_history_id", "job_user_id")
        table = {}
        for name, rows in self.server.records.items():
            table[name] = [dict(zip(keys, row, strict=True)) for row in rows]
        self.reply_json(table, sort=True)

    def _shutdown(self) -> None:
        try:
            sent = json.loads(self.body)
            record = self._find(sent, "")
            if record is None:
                self._say(404, "No records founded")
                return
            address = urlsplit(sent["endpoint"])
            status = get(f"{address.scheme}://{address.netloc}/shutdown", SHUTDOWN_TIMEOUT)
        except (KeyError, TypeError, ValueError, OSError) as error:
            self._say(500, str(error))
            return
        if status == 200:
            self._say(200, "Shutdown triggered successfully")
        else:
            self._say(500, f"Failed to trigger shutdown: {status}")

    def _update(self) -> None:
        try:
            sent = json.loads(self.body)
            record = self._find(sent, "original_")
            ids = [int(sent["history_id"]), int(sent["user_id"])]
            if record is None:
                self._say(404, "Record not found")
                return
            self.server.records[sent["original_access_code"]].remove(record)
            rows = self.server.records.setdefault(sent["access_code"], [])
            rows.append([sent["endpoint"], sent["status"], *ids])
        except (KeyError, TypeError, ValueError, OSError) as error:
            self._say(500, str(error))
            return
        self._say(200, "Record updated successfully")

    def _find(self, sent: dict[str, Any], prefix: str) -> list[Any] | None:
        names = ("access_code", "endpoint", "status", "history_id", "user_id")
        name, endpoint, status, history_id, user_id = (sent[prefix + one] for one in names)
        wanted = [endpoint, status, int(history_id), int(user_id)]
        rows = self.server.records.get(name, [])
        return next((row for row in rows if row == wanted), None)

    def _say(self, status: int, text: str) -> None:
        answer = {"message": text, "status": "success" if status == 200 else "error"}
        self.reply_json(answer, status)


@contextmanager
def kernel_04() -> Iterator[Kernel]:
    """Run the Kernel for the length of a test."""
    with kernel_03(Routes04) as kernel:
        yield kernel
