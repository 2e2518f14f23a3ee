"""Bound the bytes of request bodies that all connections hold at once.

Bytes count when they come, not when a head announces them, and until the route that they are for
has returned. FREE_BYTES of each body do not count, so ordinary requests are never refused. Over the
budget, the unfinished body that began first is displaced: a client that stops or drips cannot hold
the budget, and one that sends at the speed of a network is through before its turn comes.
"""

from __future__ import annotations

import threading

from kuwa_min.errors import HTTPError

from .sentences import TOO_MUCH_AT_ONCE

FREE_BYTES = 64 << 10


class BodyBudget:
    """The bytes that the bodies of a server's requests may hold at once, above FREE_BYTES each."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.lock = threading.Lock()
        self.large: dict[Body, None] = {}  # those above FREE_BYTES, in the order of becoming so


class Body:
    """The body of one request; as a context manager, it gives its bytes back.

    A connection's thread calls `append` and, once all has come, `complete`. Both raise HTTPError if
    another body has displaced this one.
    """

    def __init__(self, budget: BodyBudget) -> None:
        self.data = bytearray()
        self._budget = budget
        self._is_complete = self._is_displaced = False

    def __enter__(self) -> Body:
        """Return the empty body."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the bytes back to the budget."""
        if self in self._budget.large:
            with self._budget.lock:
                self._drop()

    def append(self, data: bytes) -> None:
        """Add bytes that have come."""
        if len(self.data) + len(data) <= FREE_BYTES and not self._is_displaced:
            self.data += data
            return
        with self._budget.lock:
            self._check()
            self._budget.large.setdefault(self)
            self._budget.used += self._counted(len(data)) - self._counted()
            self.data += data
            while self._budget.used > self._budget.limit:
                self._displace_oldest()
            self._check()

    def complete(self) -> None:
        """Note that all has come: from now on no other body displaces this one."""
        with self._budget.lock:
            self._check()
            self._is_complete = True

    def _counted(self, more: int = 0) -> int:
        return max(0, len(self.data) + more - FREE_BYTES)

    def _check(self) -> None:
        if self._is_displaced:
            raise HTTPError(503, TOO_MUCH_AT_ONCE, Retry_After="5")

    def _displace_oldest(self) -> None:
        """Displace the oldest unfinished body, which is this one if there is no other."""
        oldest = next(one for one in self._budget.large if not one._is_complete)
        oldest._is_displaced = True
        oldest._drop()

    def _drop(self) -> None:
        self._budget.used -= self._counted()
        self._budget.large.pop(self, None)
        self.data = bytearray()
