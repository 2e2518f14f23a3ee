"""A cache whose entries expire."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any


def lru_cache_with_ttl(
    max_age_sec: float = 600, maxsize: int | None = 128, typed: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator: functools.lru_cache that forgets everything every max_age_sec seconds."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.lru_cache(maxsize, typed)
        def remember(_period: int, /, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return remember(int(time.monotonic() / max_age_sec), *args, **kwargs)

        return call

    return decorate
