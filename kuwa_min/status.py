"""Say what an executor is doing: how far it is with loading, what it runs, how busy it is.

Knows no HTTP. It holds nothing of people and their chats, no address and no secret.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .metrics import Metrics
    from .progress import Progress

logger = logging.getLogger(__name__)

LOADING, READY, STOPPING = "loading", "ready", "stopping"


class Report:
    """What a backend says of itself; it may say so as well where nobody serves it."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.task: Progress | None = None
        self.on_tokens: Callable[[int, int], None] = lambda read, written: None

    def begin(self, what: str) -> Progress:
        """Return what is to be called with the steps of a task; the one before it has ended."""
        from .progress import Progress  # a small file has no bytecode of it

        self.end()
        self.task = Progress(what, at_tenth=_log)
        return self.task

    def end(self) -> None:
        """Clear the bar of the task that was begun last."""
        task, self.task = self.task, None
        if task is not None:
            task.end()

    def describe(self, facts: dict[str, Any]) -> None:
        """Add facts; what JSON cannot hold becomes text. Raises ValueError for NaN and infinity."""
        plain = json.loads(json.dumps(facts, default=str, allow_nan=False))
        self.facts = {**self.facts, **plain}


class Status:
    """What /status shows to whoever reaches the port."""

    def __init__(
        self,
        report: Report,
        metrics: Metrics,
        *,
        version: str,
        backend: str,
        access_codes: Sequence[str],
    ) -> None:
        self._report, self._metrics = report, metrics
        self._about = {"version": version, "backend": backend, "access_codes": list(access_codes)}
        self._started = time.monotonic()

    def render(self, state: str) -> bytes:
        """Return the executor in this state as JSON; never waits."""
        metrics = self._metrics
        found = {
            "state": state,
            **self._about,
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "slots": int(metrics.slots.value),
            "busy_slots": int(metrics.busy_slots.value),
            "registered": bool(metrics.registered.value),
            "model": self._report.facts,
        }
        if state == LOADING:
            found["progress"] = _steps(self._report.task)
        return json.dumps(found).encode()


def _steps(task: Progress | None) -> dict[str, Any] | None:
    """Return how far a task is, or None while the backend says nothing of it."""
    if task is None:
        return None
    left = task.seconds_left()
    return {
        "what": task.title,
        "done": task.done,
        "total": task.total,
        "percent": task.percent(),
        "seconds_left": None if left is None else round(left, 1),
    }


def _log(task: Progress) -> None:
    """Write the line of a tenth."""
    left = task.seconds_left() or 0
    logger.info("%s: %d %%, %.0f s left", task.title, task.percent(), left)
