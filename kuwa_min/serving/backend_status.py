"""What a backend reports about itself: loading progress, facts about the model, tokens.

Written by the backend on any thread; read by /status on HTTP worker threads.
"""

from __future__ import annotations

import logging
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from kuwa_min.log import redaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from kuwa_min.progress import Progress

FUNCTIONS = (FunctionType, MethodType)  # classes and the like are shown as text

logger = logging.getLogger(__name__)


class BackendStatus:
    """The latest report of one backend.

    It exists from the executor's construction on; on_tokens is set once the executor serves.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.task: Progress | None = None  # the step of loading that runs
        self.functions: dict[str, Callable[[], Any]] = {}  # facts that change
        self.add_metric: Callable[[str, str, Callable[[], float]], None] = lambda *_: None
        # called with prompt tokens, completion tokens and cached ones of the prompt
        self.on_tokens: Callable[[int, int, int], None] = lambda *_: None

    def begin(self, title: str) -> Progress:
        """End the current task and begin another; call the result with (done, total)."""
        from kuwa_min.progress import Progress  # a small file has no bytecode of it

        self.end()
        self.task = Progress(redaction.clean(title), at_tenth=_log)
        return self.task

    def end(self) -> None:
        """End the current task, if there is one, and clear its bar."""
        task, self.task = self.task, None
        if task is not None:
            task.end()

    def describe(self, facts: dict[str, Any]) -> None:
        """Add facts; other than JSON types become text. Raises ValueError for NaN and infinity."""
        import json

        calls = {name: one for name, one in facts.items() if isinstance(one, FUNCTIONS)}
        self.functions = {**self.functions, **calls}
        facts = {name: fact for name, fact in facts.items() if name not in calls}
        plain = json.loads(json.dumps(facts, default=str, allow_nan=False))
        self.facts = {**self.facts, **_clean(plain)}

    def current(self) -> dict[str, Any]:
        """Return all facts as they are now."""
        return {**self.facts, **{name: _clean(one()) for name, one in self.functions.items()}}


def _clean(fact: Any) -> Any:
    """Return a value of JSON without secrets in its texts: anyone may read /status."""
    if isinstance(fact, dict):
        return {name: _clean(value) for name, value in fact.items()}
    if isinstance(fact, list):
        return [_clean(value) for value in fact]
    return redaction.clean(fact) if isinstance(fact, str) else fact


def _log(task: Progress) -> None:
    left = task.seconds_left() or 0
    logger.info("%s: %d %%, %.0f s left", task.title, task.percent(), left)
