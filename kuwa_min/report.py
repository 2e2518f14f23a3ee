"""Keep what a backend says of itself: how far it is with loading, what it runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .progress import Progress

logger = logging.getLogger(__name__)


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
        import json

        plain = json.loads(json.dumps(facts, default=str, allow_nan=False))
        self.facts = {**self.facts, **plain}


def _log(task: Progress) -> None:
    """Write the line of a tenth."""
    left = task.seconds_left() or 0
    logger.info("%s: %d %%, %.0f s left", task.title, task.percent(), left)
