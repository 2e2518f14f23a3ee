"""A cache of what links lead to, bounded in time and memory; the least recently used goes first.

Every turn of a chat brings the whole history, and its links with it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

T = TypeVar("T")

IDLE_SECONDS = 600.0  # since an entry was last used, after which it is evicted
MAX_BYTES = 64 * 2**20
OVERHEAD = 1024  # bytes that an entry takes beside its data


@dataclass(frozen=True)
class _Entry(Generic[T]):
    value: T
    size: int
    used: float  # time.monotonic()


class FetchCache(Generic[T]):
    """Values by URL, least recently used first; safe for threads."""

    def __init__(self, *, most_bytes: int = MAX_BYTES, seconds: float = IDLE_SECONDS) -> None:
        self._most, self._seconds = most_bytes, seconds
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()
        self.bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def get(self, url: str) -> T | None:
        """Return the value of a URL; None if there is none."""
        with self._lock:
            self._evict()
            entry = self._entries.pop(url, None)
            if entry is None:
                return None
            self._entries[url] = replace(entry, used=time.monotonic())
            return entry.value

    def put(self, url: str, value: T, size: int) -> None:
        """Store a value of `size` bytes in place of the former one."""
        with self._lock:
            former = self._entries.pop(url, None)
            self.bytes -= former.size if former else 0
            entry = _Entry(value, size + len(url) + OVERHEAD, time.monotonic())
            self._entries[url] = entry
            self.bytes += entry.size
            self._evict()

    def _evict(self) -> None:
        """Drop the least recently used entries while they are too old, or all are too large."""
        oldest_allowed = time.monotonic() - self._seconds
        while self._entries:
            url, entry = next(iter(self._entries.items()))
            if entry.used >= oldest_allowed and self.bytes <= self._most:
                return
            del self._entries[url]
            self.bytes -= entry.size
