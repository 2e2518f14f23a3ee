"""Call a backend's own abort(), which ends what cannot be cancelled because it blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from kuwa_min.errors import traceback_line
from kuwa_min.process import supervision

from .event_loop import EventLoop

logger = logging.getLogger(__name__)

START_TIMEOUT = 0.05  # seconds that the event loop may block before abort() runs elsewhere
TIMEOUT = 5.0  # seconds that the next chat waits for abort()


class BackendAbort:
    """Runs abort() on the event loop, or on a thread of its own.

    The latter if the loop blocks, so that it can end what blocks there, or if there is no loop.
    """

    def __init__(
        self, abort: Callable[[], Coroutine[Any, Any, None]], loop: EventLoop | None
    ) -> None:
        self._call_backend, self._loop = abort, loop

    def run(self) -> None:
        """Run abort(); return at its end or after TIMEOUT."""
        if self._loop is not None:
            done = self._loop.call(self._abort, START_TIMEOUT)
            if done is not None:
                done.wait(TIMEOUT)
                return
        supervision.spawn("abort", self._run_on_thread).join(TIMEOUT)

    def _run_on_thread(self) -> None:
        import asyncio

        asyncio.run(self._abort())

    async def _abort(self) -> None:
        try:
            await self._call_backend()
        except Exception as error:  # noqa: BLE001 - the backend's own code
            logger.error("abort() failed: %s", traceback_line(error, with_message=False))
