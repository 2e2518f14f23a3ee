"""Clients for which the system has no thread: say so, and end a process that can serve none."""

from __future__ import annotations

import logging
import time

from kuwa_min.process.supervision import end_process

logger = logging.getLogger(__name__)

TELL_INTERVAL = 60.0  # seconds between two lines of the log
HOPELESS_SECONDS = 30.0  # without a thread for any client, though no other client holds one


class ThreadShortage:
    """How long the shortage lasts; used by the accepting thread alone."""

    def __init__(self) -> None:
        self._told_at = float("-inf")
        self._hopeless_since: float | None = None

    def ended(self) -> None:
        """Note that a thread could be started."""
        self._hopeless_since = None

    def refused(self, *, others: int) -> None:
        """Note that a client gets none; others: the connections that do hold one.

        With others, their end helps. Without any, nothing here does, and the process ends instead
        of refusing all clients for ever.
        """
        now = time.monotonic()
        if now - self._told_at > TELL_INTERVAL:
            self._told_at = now
            logger.warning(
                "clients read 503: the system has no thread for them (%d others have one); "
                "is there memory left, and do ulimit -u and -v allow more?",
                others,
            )
        if others:
            self._hopeless_since = None
        elif self._hopeless_since is None:
            self._hopeless_since = now
        elif now - self._hopeless_since > HOPELESS_SECONDS:
            end_process("the system has no thread left, not even for a single client")
