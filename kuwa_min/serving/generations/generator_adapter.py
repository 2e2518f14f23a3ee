"""Make an async generator of what a custom executor's llm_compute returned."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from kuwa_min.chat.chunks import BaseChunk
from kuwa_min.errors import PieceError


def as_generator(result: Any) -> AsyncGenerator[Any, None]:
    """Return an async generator of the answer's pieces; an async generator is returned unchanged.

    Accepted as well: a coroutine (`async def` without yield), a generator or any other iterable,
    an async iterator, a single piece, and None for no text. Anything else raises PieceError when
    the generator runs.
    """
    if hasattr(result, "aclose"):
        return result  # type: ignore[no-any-return]
    return _pieces(result)


async def _pieces(result: Any) -> AsyncGenerator[Any, None]:
    while hasattr(result, "__await__"):
        result = await result
    if result is None:
        return
    if isinstance(result, str | BaseChunk):
        yield result
        return
    try:
        if hasattr(result, "__aiter__"):
            async for piece in result:
                yield piece
        elif hasattr(result, "__iter__"):
            for piece in result:
                yield piece
        else:
            raise PieceError(f"llm_compute returned {type(result).__name__}, which is no text")
    finally:
        await _close(result)


async def _close(result: Any) -> None:
    """Close a generator, so that its `finally` runs now."""
    if hasattr(result, "aclose"):
        await result.aclose()
    elif hasattr(result, "close") and hasattr(result, "send"):
        result.close()
