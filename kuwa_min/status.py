"""Say what an executor is doing: how far it is with loading, what it runs, how busy it is.

Knows no HTTP. It holds nothing of people and their chats, no address and no secret.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .metrics import Metrics
    from .progress import Progress
    from .report import Report

LOADING = "loading"  # the state in which there is progress to show


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
        started: float,
    ) -> None:
        self._report, self._metrics = report, metrics
        self._about = {"version": version, "backend": backend, "access_codes": list(access_codes)}
        self._started = started  # time.monotonic()

    def render(self, state: str) -> bytes:
        """Return the executor in this state as JSON; never waits."""
        metrics = self._metrics
        found = {
            "state": state,
            **self._about,
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "slots": int(metrics.slots.value),
            "busy_slots": int(metrics.busy_slots.value),
            "waiting": int(metrics.waiting.value),
            "longest_wait_seconds": round(metrics.longest_wait.value, 3),
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
