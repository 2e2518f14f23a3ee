"""Count the tokens of the chat under way, wherever its backend counts them.

The counter travels in a context variable: tasks and asyncio.to_thread inherit it, bare threads of
a backend do not, and count for /metrics only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Usage:
    """The tokens of one chat: of its prompt and of its answer."""

    def __init__(self) -> None:
        self.prompt_tokens = self.completion_tokens = 0
        self.counted = False

    def add(self, read: int, written: int) -> None:
        """Add tokens."""
        self.prompt_tokens += read
        self.completion_tokens += written
        self.counted = True


_chat: ContextVar[Usage | None] = ContextVar("usage of the chat", default=None)


@contextmanager
def counting(usage: Usage) -> Iterator[None]:
    """Let `count` add to this, in this thread and in the tasks that it starts."""
    token = _chat.set(usage)
    try:
        yield
    finally:
        _chat.reset(token)


def count(read: int, written: int) -> None:
    """Add tokens to the chat under way, if there is one here."""
    usage = _chat.get()
    if usage is not None:
        usage.add(read, written)
