"""The embedded Kernel's memory: who serves which name, and whom each is reserved for."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from . import protocol

RESERVATION_SECONDS = 30.0  # a reservation without a chat ends after this
BUSY, NO_MACHINE = "BUSY", "NOMACHINE"


@dataclass
class Executor:
    """One endpoint under one name, and whom it is reserved for."""

    endpoint: str
    state: str = protocol.READY
    history_id: int | str = protocol.RESERVED_NOBODY
    user_id: int | str = protocol.RESERVED_NOBODY
    reserved_at: float = field(default=0.0, repr=False)

    def reserve(self, history_id: str, user_id: str) -> None:
        """Keep this executor for one chat."""
        self.history_id, self.user_id = history_id, user_id
        self.reserved_at = time.monotonic()

    def release(self) -> None:
        """End the reservation and the chat: the endpoint is READY again."""
        self.state = protocol.READY
        self.history_id = self.user_id = protocol.RESERVED_NOBODY

    @property
    def free(self) -> bool:
        """Tell whether the endpoint is READY and not reserved."""
        if self.state != protocol.READY:
            return False
        expired = time.monotonic() - self.reserved_at > RESERVATION_SECONDS
        return self.history_id == protocol.RESERVED_NOBODY or expired

    def record(self) -> protocol.Record:
        """Return the record as the Kernel shows it."""
        return [self.endpoint, self.state, self.history_id, self.user_id]


class Records:
    """The Kernel's memory: who serves which name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, list[Executor]] = {}

    def add(self, name: str, endpoint: str) -> bool:
        """Add an endpoint; return False if it is there already."""
        with self._lock:
            known = self._names.setdefault(name, [])
            if any(executor.endpoint == endpoint for executor in known):
                return False
            known.append(Executor(endpoint))
            return True

    def knows(self, name: str, endpoint: str) -> bool:
        """Tell whether an endpoint of that scheme, host and port is listed under this name."""
        with self._lock:
            listed = self._names.get(name, [])
            return any(origin(one.endpoint) == origin(endpoint) for one in listed)

    def remove(self, name: str, endpoint: str) -> bool:
        """Remove every endpoint of that scheme, host and port; return whether there was one."""
        with self._lock:
            known = self._names.get(name, [])
            kept = [one for one in known if origin(one.endpoint) != origin(endpoint)]
            return self._keep(name, known, kept)

    def drop(self, name: str, dead: Executor) -> None:
        """Remove one endpoint that does not answer."""
        with self._lock:
            known = self._names.get(name, [])
            self._keep(name, known, [one for one in known if one is not dead])

    def _keep(self, name: str, known: list[Executor], kept: list[Executor]) -> bool:
        if kept:
            self._names[name] = kept
        else:
            self._names.pop(name, None)
        return len(kept) < len(known)

    def find(self, name: str, endpoint: str) -> Executor | None:
        """Return the executor of this name and endpoint."""
        with self._lock:
            return self._find(name, endpoint)

    def _find(self, name: str, endpoint: str) -> Executor | None:
        known = self._names.get(name, [])
        return next((one for one in known if one.endpoint == endpoint), None)

    def move(self, name: str, endpoint: str, new_name: str, new_endpoint: str) -> bool:
        """Give a free executor another name or endpoint; return whether there was one."""
        with self._lock:
            moved = self._find(name, endpoint)
            taken = self._find(new_name, new_endpoint)
            if moved is None or not moved.free or not (taken is None or taken is moved):
                return False
            self._keep(name, [], [one for one in self._names[name] if one is not moved])
            self._names.setdefault(new_name, []).append(Executor(new_endpoint))
            return True

    def schedule(self, name: str, history_id: str, user_id: str) -> str:
        """Reserve an executor for a chat."""
        with self._lock:
            known = self._names.get(name)
            if not known:
                return NO_MACHINE
            for executor in known:
                if executor.free:
                    executor.reserve(history_id, user_id)
                    return protocol.READY
            return BUSY

    def begin(self, name: str, history_id: str, user_id: str) -> Executor | None:
        """Take the executor that was reserved for this chat."""
        with self._lock:
            for executor in self._names.get(name, []):
                mine = (executor.history_id, executor.user_id) == (history_id, user_id)
                if mine and executor.state == protocol.READY:
                    executor.state = BUSY
                    return executor
            return None

    def end(self, executor: Executor) -> None:
        """Give an executor back."""
        with self._lock:
            executor.release()

    def running(self, history_ids: Collection[str], user_id: str) -> list[Executor]:
        """Return the executors that run these chats of this user."""
        with self._lock:
            return [
                executor
                for known in self._names.values()
                for executor in known
                if executor.user_id == user_id and str(executor.history_id) in history_ids
            ]

    def names(self) -> list[str]:
        """Return the names that have an endpoint."""
        with self._lock:
            return list(self._names)

    def table(self) -> protocol.Table:
        """Return all records."""
        with self._lock:
            return {name: [one.record() for one in known] for name, known in self._names.items()}


def origin(endpoint: str) -> tuple[str, str] | None:
    """Return an endpoint's scheme, and host with port; None if it is no http(s) address."""
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return (parts.scheme, parts.netloc) if usable else None
