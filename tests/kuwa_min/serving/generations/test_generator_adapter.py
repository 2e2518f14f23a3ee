"""The results of llm_compute: an async generator as documented, or anything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from kuwa_min.chat.chunks import ExitCodeChunk
from kuwa_min.serving.generations.generator_adapter import as_generator

CHUNK = ExitCodeChunk(1)


async def collect(result: Any) -> list[Any]:
    """Return all pieces."""
    return [piece async for piece in as_generator(result)]


async def generator() -> AsyncIterator[Any]:
    """Be what is documented."""
    yield "a"
    yield CHUNK


async def coroutine(result: Any) -> Any:
    """Return something."""
    return result


def plain() -> Iterator[str]:
    """Be an ordinary generator."""
    yield from ("a", "b")


class Iterating:
    """An async iterator that is no generator."""

    def __init__(self) -> None:
        self._left = ["b", "a"]

    def __aiter__(self) -> Iterating:
        return self

    async def __anext__(self) -> str:
        """Return the next piece."""
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


@pytest.mark.parametrize(
    ("create", "pieces"),
    [
        (generator, ["a", CHUNK]),
        (plain, ["a", "b"]),
        (Iterating, ["a", "b"]),
        (lambda: coroutine("text"), ["text"]),
        (lambda: coroutine(CHUNK), [CHUNK]),
        (lambda: coroutine(None), []),
        (lambda: coroutine(plain()), ["a", "b"]),
        (lambda: coroutine(generator()), ["a", CHUNK]),
        (lambda: coroutine(["a", CHUNK]), ["a", CHUNK]),
        (lambda: "text", ["text"]),
        (lambda: None, []),
    ],
)
def test_the_pieces_are_taken_out_of_it(create: Any, pieces: list[Any]) -> None:
    """In their order."""
    assert asyncio.run(collect(create())) == pieces


def test_an_async_generator_is_not_wrapped() -> None:
    """Nothing stands between it and its reader."""
    made = generator()
    assert as_generator(made) is made


def test_anything_else_is_named() -> None:
    """For the log."""
    with pytest.raises(TypeError, match="llm_compute returned int, which is no text"):
        asyncio.run(collect(coroutine(3)))


def test_a_generator_is_closed_with_its_reader() -> None:
    """What stands in its `finally` runs at once, not when it is collected."""
    closed = []

    def watched() -> Iterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            closed.append(True)

    async def read_one() -> None:
        pieces = as_generator(coroutine(watched()))
        assert await pieces.__anext__() == "a"
        await pieces.aclose()
        assert closed

    asyncio.run(read_one())
