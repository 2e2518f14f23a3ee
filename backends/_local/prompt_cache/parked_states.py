"""Parked states under a budget of bytes, in the order of their last use."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .parked import Key, ParkedState

MAX_ENTRIES = 1000  # each is compared with each prompt: a millisecond or two
RESERVE = 2**28  # bytes of free memory that are left to others


class ParkedStates:
    """At most max_bytes of states; free: the machine's free memory, None if unknown. Thread-safe.

    The engine's thread drops and puts; the thread of the files adds what it reads.
    """

    def __init__(self, max_bytes: int, free: Callable[[], int | None]) -> None:
        self.max_bytes, self._free = max_bytes, free
        self.bytes = 0
        self._lock = threading.Lock()
        self._entries: dict[Key, ParkedState] = {}  # the least recently used first

    def __len__(self) -> int:
        """Return the number of states."""
        return len(self._entries)

    def all(self) -> list[ParkedState]:
        """Return all states, the least recently used one first."""
        with self._lock:
            return list(self._entries.values())

    def get(self, key: Key) -> ParkedState | None:
        """Return the state of exactly these tokens and adapters."""
        return self._entries.get(key)

    def put(self, entry: ParkedState) -> None:
        """Add a state, or note that it was used."""
        with self._lock:
            self._remove(entry)
            self._entries[entry.key] = entry
            self.bytes += entry.size

    def add(self, entry: ParkedState) -> bool:
        """Add a state as the least recently used one; return false if there is no room."""
        with self._lock:
            if entry.key not in self._entries:
                if self.bytes + entry.size > self._limit():
                    return False
                self._entries = {entry.key: entry, **self._entries}
                self.bytes += entry.size
        return True

    def drop(self, entry: ParkedState) -> None:
        """Remove a state, if it is there."""
        with self._lock:
            self._remove(entry)

    def _remove(self, entry: ParkedState) -> None:
        known = self._entries.pop(entry.key, None)
        if known is not None:
            self.bytes -= known.size

    def in_the_way_of(self, size: int) -> list[ParkedState] | None:
        """Return the states to drop so that one of this size has room; None if it never has."""
        limit = self._limit()
        if size > limit:
            return None
        states, held, found = self.all(), self.bytes, 0
        while found < len(states) and (held + size > limit or len(states) - found >= MAX_ENTRIES):
            held -= states[found].size
            found += 1
        return states[:found]

    def _limit(self) -> int:
        """Return the bytes that may be held: less than the budget where memory is short."""
        free = self._free()
        return self.max_bytes if free is None else min(self.max_bytes, self.bytes + free - RESERVE)
