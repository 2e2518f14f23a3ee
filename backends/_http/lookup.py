"""Look up host names so that the wait for an answer can be cancelled."""

from __future__ import annotations

from typing import Any

from kuwa_min.process import deadline

from .cancellation import Cancelled, current_scope


def look_up(host: str, port: int, seconds: float | None) -> list[Any]:
    """Look a host's addresses up; the thread's cancel scope ends the wait.

    Raises TimeoutError after `seconds`, and OSError.
    """
    scope = current_scope()
    try:
        return deadline.look_up(
            host,
            port,
            seconds,
            lambda end: scope.on_cancel(lambda: end(Cancelled("the chat was stopped"))),
        )
    finally:
        scope.unwatch()
