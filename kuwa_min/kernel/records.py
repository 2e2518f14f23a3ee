"""The embedded Kernel's record table: endpoints by name, their states and reservations."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from . import protocol

MAX_RECORDS = 4096
RESERVATION_SECONDS = 30.0  # after which a reservation without a chat ends
BUSY, NO_MACHINE = "BUSY", "NOMACHINE"  # answers of `schedule`, beside READY


@dataclass
class ExecutorRecord:
    """One endpoint under one name: its state, and the chat that it is reserved for.

    address: the host or IP address to connect to.
    """

    endpoint: str
    address: str
    state: str = protocol.READY
    history_id: int | str = protocol.UNRESERVED
    user_id: int | str = protocol.UNRESERVED
    reserved_at: float = field(default=0.0, repr=False)  # time.monotonic()

    def reserve(self, history_id: str, user_id: str) -> None:
        """Keep this endpoint for one chat."""
        self.history_id, self.user_id = history_id, user_id
        self.reserved_at = time.monotonic()

    def release(self) -> None:
        """End the reservation and the chat: the endpoint is READY again."""
        self.state = protocol.READY
        self.history_id = self.user_id = protocol.UNRESERVED

    @property
    def is_free(self) -> bool:
        """Tell whether the endpoint is READY and not reserved."""
        if self.state != protocol.READY:
            return False
        expired = time.monotonic() - self.reserved_at > RESERVATION_SECONDS
        return self.history_id == protocol.UNRESERVED or expired

    def row(self) -> protocol.Record:
        """Return the record as the Kernel lists it."""
        return [self.endpoint, self.state, self.history_id, self.user_id]


class RecordTable:
    """All records by name; every method is atomic and may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, list[ExecutorRecord]] = {}

    def add(self, name: str, record: ExecutorRecord) -> bool:
        """Add an endpoint; return False if it is there already, or the table is full."""
        with self._lock:
            count = sum(map(len, self._records.values()))
            if count >= MAX_RECORDS or self._find(name, record.endpoint) is not None:
                return False
            self._records.setdefault(name, []).append(record)
            return True

    def has_origin(self, name: str, endpoint: str) -> bool:
        """Tell whether the name has an endpoint of the same scheme, host and port."""
        with self._lock:
            listed = self._records.get(name, [])
            return any(origin(one.endpoint) == origin(endpoint) for one in listed)

    def remove(self, name: str, endpoint: str) -> bool:
        """Remove every endpoint of the same scheme, host and port; return whether there was one."""
        with self._lock:
            known = self._records.get(name, [])
            kept = [one for one in known if origin(one.endpoint) != origin(endpoint)]
            return self._keep(name, known, kept)

    def discard(self, name: str, dead: ExecutorRecord) -> None:
        """Remove one endpoint, which does not answer."""
        with self._lock:
            known = self._records.get(name, [])
            self._keep(name, known, [one for one in known if one is not dead])

    def _keep(self, name: str, known: list[ExecutorRecord], kept: list[ExecutorRecord]) -> bool:
        """Keep these of the known records of a name; return whether that removed some."""
        if kept:
            self._records[name] = kept
        else:
            self._records.pop(name, None)
        return len(kept) < len(known)

    def find(self, name: str, endpoint: str) -> ExecutorRecord | None:
        """Return the record of this name and endpoint."""
        with self._lock:
            return self._find(name, endpoint)

    def _find(self, name: str, endpoint: str) -> ExecutorRecord | None:
        known = self._records.get(name, [])
        return next((one for one in known if one.endpoint == endpoint), None)

    def move(self, name: str, endpoint: str, new_name: str, new: ExecutorRecord) -> bool:
        """Replace a free record by a new one; return whether there was one."""
        with self._lock:
            moved = self._find(name, endpoint)
            taken = self._find(new_name, new.endpoint)
            if moved is None or not moved.is_free or not (taken is None or taken is moved):
                return False
            self._keep(name, [], [one for one in self._records[name] if one is not moved])
            self._records.setdefault(new_name, []).append(new)
            return True

    def schedule(self, name: str, history_id: str, user_id: str) -> str:
        """Reserve a free endpoint for a chat; return READY, BUSY or NO_MACHINE."""
        with self._lock:
            known = self._records.get(name)
            if not known:
                return NO_MACHINE
            for record in known:
                if record.is_free:
                    record.reserve(history_id, user_id)
                    return protocol.READY
            return BUSY

    def start_chat(self, name: str, history_id: str, user_id: str) -> ExecutorRecord | None:
        """Make the record that is reserved for this chat busy, and return it."""
        with self._lock:
            for record in self._records.get(name, []):
                reserved = (record.history_id, record.user_id) == (history_id, user_id)
                if reserved and record.state == protocol.READY:
                    record.state = BUSY
                    return record
            return None

    def end_chat(self, record: ExecutorRecord) -> None:
        """Make a record free again."""
        with self._lock:
            record.release()

    def of_chats(self, history_ids: Collection[str], user_id: str) -> list[ExecutorRecord]:
        """Return the records that run these chats of a user."""
        with self._lock:
            return [
                record
                for known in self._records.values()
                for record in known
                if record.state == BUSY
                and record.user_id == user_id
                and record.history_id in history_ids
            ]

    def all(self) -> list[ExecutorRecord]:
        """Return all records."""
        with self._lock:
            return [record for known in self._records.values() for record in known]

    def names(self) -> list[str]:
        """Return the names that have an endpoint."""
        with self._lock:
            return list(self._records)

    def table(self) -> protocol.Table:
        """Return all records as the Kernel lists them."""
        with self._lock:
            return {name: [one.row() for one in known] for name, known in self._records.items()}


def origin(endpoint: str) -> tuple[str, str] | None:
    """Return an endpoint's scheme, and host with port; None if it is no http(s) URL."""
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return (parts.scheme, parts.netloc) if usable else None


def loggable(endpoint: str) -> str:
    """Return an endpoint for the log: without its path, which may be a secret."""
    return "://".join(origin(endpoint) or ("an odd endpoint",))
