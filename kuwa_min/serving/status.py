"""The JSON of /status: state, loading progress, facts about the model, load.

Knows no HTTP. It is public: it holds no content of chats, no addresses and no secrets.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kuwa_min.progress import Progress

    from .backend_status import BackendStatus
    from .metrics import Metrics

LOADING = "loading"  # the state in which there is progress to show
MOST_PERCENT = 99  # while loading: setup() may have more to do after its last task


class ExecutorStatus:
    """Collects what /status shows. started: time.monotonic() at the start of the process."""

    def __init__(
        self,
        backend_status: BackendStatus,
        metrics: Metrics,
        *,
        version: str,
        backend: str,
        access_codes: Sequence[str],
        started: float,
    ) -> None:
        self._backend_status, self._metrics = backend_status, metrics
        self._about = {"version": version, "backend": backend, "access_codes": list(access_codes)}
        self._started = started

    def render(self, state: str) -> bytes:
        """Return the executor in this state as JSON; does not wait."""
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
            "model": self._backend_status.current(),
        }
        if state == LOADING:
            found["progress"] = _progress(self._backend_status.task)
        return json.dumps(found).encode()


def _progress(task: Progress | None) -> dict[str, Any] | None:
    """Return a task's progress, or None while the backend reports none."""
    if task is None:
        return None
    left = task.seconds_left()
    return {
        "what": task.title,
        "done": task.done,
        "total": task.total,
        "percent": min(task.percent(), MOST_PERCENT),
        "seconds_left": None if left is None else round(left, 1),
    }
