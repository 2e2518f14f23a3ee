"""How many of a text's tokens are of interest, and whether its chat was stopped meanwhile."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NamedTuple


class Stopped(Exception):
    """Report that a chat was stopped while it was tokenized."""


class _Bounds(NamedTuple):
    most: int = sys.maxsize
    is_stopped: Callable[[], bool] = lambda: False


UNBOUNDED = _Bounds()
_bounds = ContextVar("bounds", default=UNBOUNDED)


@contextlib.contextmanager
def bounded(most: int, is_stopped: Callable[[], bool]) -> Iterator[None]:
    """Bound what is tokenized in this block, on this thread.

    A text of more than `most` tokens need not be tokenized to its end; is_stopped: asked between
    two pieces of a text whether to raise Stopped.
    """
    token = _bounds.set(_Bounds(most, is_stopped))
    try:
        yield
    finally:
        _bounds.reset(token)


def most_tokens() -> int:
    """Return how many tokens are of interest."""
    return _bounds.get().most


def is_enough(ids: list[int]) -> bool:
    """Tell whether these are more tokens than are of interest; raises Stopped."""
    bounds = _bounds.get()
    if bounds.is_stopped():
        raise Stopped
    return len(ids) > bounds.most
