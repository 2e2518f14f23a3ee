"""Count the tokens of the current chat, wherever its backend counts them.

The counter travels in a context variable: asyncio tasks and asyncio.to_thread inherit it. Threads
that a backend starts itself do not; what they count goes to /metrics only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Usage:
    """Token counts of one chat, and why its answer ended."""

    def __init__(self) -> None:
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0
        self.counted = False  # whether the backend has counted anything
        self.finish_reason = "stop"

    def add(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> None:
        """Add to the counts; cached_tokens: those of the prompt that were known already."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.cached_tokens += cached_tokens
        self.counted = True


_current: ContextVar[Usage | None] = ContextVar("usage", default=None)


@contextmanager
def counting(usage: Usage) -> Iterator[None]:
    """Let `count` add to this usage, on this thread and in the tasks that it starts."""
    token = _current.set(usage)
    try:
        yield
    finally:
        _current.reset(token)


def count(prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> None:
    """Add to the usage of the current chat; does nothing outside one."""
    usage = _current.get()
    if usage is not None:
        usage.add(prompt_tokens, completion_tokens, cached_tokens)


def end(reason: str) -> None:
    """Set why the current chat's answer ends; does nothing outside one."""
    usage = _current.get()
    if usage is not None:
        usage.finish_reason = reason
