"""Count pieces a second on the wire of Kuwa 0.4, in one stream and in 64 at once.

A piece is one character that the backend yields. FastAPI sends each in a line of its own, as Kuwa's
executor does; ours gathers those that are ready in one line. Our raw wire stands beside it.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from core.throughput import (
    HURRYING,
    MANY_PIECES,
    ONE_PIECES,
    PLAIN,
    STREAMS,
    many_streams,
    one_stream,
)
from harness.chat import Chat, FramedChat, allow_many_connections
from harness.contestants import FASTAPI, OURS, fastapi, ours
from harness.process import Server, free_port
from harness.question import ask
from harness.rounds import interleaved, medians
from harness.table import Row, Table, at_least, beside

RAW = "the same, raw wire"
Stream = Callable[[int, int, type[Chat]], float]


def measure(quick: bool) -> Table:
    """Stream in interleaved rounds from servers that all stay up."""
    count = 3 if quick else 5
    allow_many_connections()
    with ExitStack() as stack:
        ports = started(stack)
        one = measured(ports, one_stream, ONE_PIECES, count)
        many = measured(ports, many_streams, MANY_PIECES, count)
    title = f"throughput on the framed wire: thousand pieces a second, median of {count}"
    return Table(title, [*rows("1 stream", one), *rows(f"{STREAMS} streams", many)])


def rows(what: str, found: dict[str, float]) -> list[Row]:
    """Compare with the raw wire and with FastAPI; the goal is against the fastest FastAPI."""
    fastest = max(FASTAPI, HURRYING, PLAIN, key=lambda name: found[name])
    return [
        at_least(what, found[OURS], name, found[name], 4)
        if name == fastest
        else beside(what, found[OURS], name, found[name])
        for name in found
        if name != OURS
    ]


def started(stack: ExitStack) -> dict[str, int]:
    """Start every contestant; return the ports."""
    commands: dict[str, Callable[[int], list[str]]] = {
        OURS: lambda port: [*ours(port, delay=0, slots=STREAMS), "--wire", "0.4"],
        RAW: partial(ours, delay=0, slots=STREAMS),
        FASTAPI: lambda port: fastapi(port, "--framed", delay=0),
        HURRYING: lambda port: fastapi(port, "--framed", "--without_sleep", delay=0),
        PLAIN: lambda port: fastapi(port, "--framed", "--plain", delay=0),
    }
    ports = {name: free_port() for name in commands}
    for name, command in commands.items():
        stack.enter_context(Server(command(ports[name]), ports[name]))
    return ports


def measured(ports: dict[str, int], stream: Stream, pieces: int, count: int) -> dict[str, float]:
    """Return the median thousand pieces a second of every contestant, after one warm-up round."""
    contestants = {
        name: partial(stream, port, pieces, Chat if name == RAW else FramedChat)
        for name, port in ports.items()
    }
    interleaved(contestants, 1)
    return medians(interleaved(contestants, count))


if __name__ == "__main__":
    ask(measure, __doc__)
