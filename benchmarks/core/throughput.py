"""Count pieces a second, in one stream and in 64 at once.

A piece is one character that the backend yields; the client reads raw and judges afterwards.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from harness.chat import Chat, allow_many_connections, close_all, read_together
from harness.contestants import FASTAPI, FLOOR, OURS, fastapi, floor, ours, slot_path
from harness.process import Server, free_port
from harness.question import ask
from harness.rounds import interleaved, medians
from harness.table import Row, Table, at_least, beside

HURRYING = "the same, no sleep(0)"
PLAIN = "FastAPI (asyncio, h11)"
COALESCED = "floor, 64 KiB writes"
STREAMS = 64
ONE_PIECES = 40_000
MANY_PIECES = 5_000  # fewer, and the first streams end before the last ones begin
LIMIT_SECONDS = 60.0


def measure(quick: bool) -> Table:
    """Stream in interleaved rounds from servers that all stay up."""
    count = 3 if quick else 5
    allow_many_connections()
    with ExitStack() as stack:
        ports = started(stack)
        one = measured(ports, partial(one_stream, pieces=ONE_PIECES), count)
        many = measured(ports, partial(many_streams, pieces=MANY_PIECES), count)
    title = f"throughput: thousand pieces a second, median of {count}"
    return Table(title, [*rows("1 stream", one), *rows(f"{STREAMS} streams", many)])


def rows(what: str, found: dict[str, float]) -> list[Row]:
    """Compare with FastAPI and the floors; the goal is against the fastest FastAPI."""
    fastest = max(FASTAPI, HURRYING, PLAIN, key=lambda name: found[name])
    others = (name for name in found if name != OURS)
    return [
        at_least(what, found[OURS], name, found[name], 4)
        if name == fastest
        else beside(what, found[OURS], name, found[name])
        for name in others
    ]


def started(stack: ExitStack) -> dict[str, int]:
    """Start every contestant; return the ports."""
    commands: dict[str, Callable[[int], list[str]]] = {
        OURS: partial(ours, delay=0, slots=STREAMS),
        FASTAPI: partial(fastapi, delay=0),
        HURRYING: lambda port: fastapi(port, "--without_sleep", delay=0),
        PLAIN: lambda port: fastapi(port, "--plain", delay=0),
        FLOOR: partial(floor, delay=0),
        COALESCED: lambda port: floor(port, "--coalesce", delay=0),
    }
    ports = {name: free_port() for name in commands}
    for name, command in commands.items():
        stack.enter_context(Server(command(ports[name]), ports[name]))
    return ports


def measured(ports: dict[str, int], stream: Callable[[int], float], count: int) -> dict[str, float]:
    """Return the median thousand pieces a second of every contestant, after one warm-up round."""
    contestants = {name: partial(stream, port) for name, port in ports.items()}
    interleaved(contestants, 1)
    return medians(interleaved(contestants, count))


def one_stream(port: int, pieces: int, kind: type[Chat] = Chat) -> float:
    """Return the rate of a single stream, from connect to the last byte."""
    chat = kind(port, slot_path(0), "a" * pieces).read_to_end().check()
    return pieces / chat.seconds() / 1000


def many_streams(port: int, pieces: int, kind: type[Chat] = Chat) -> float:
    """Return the rate of all streams together, from the first connect to the last byte."""
    chats = [kind(port, slot_path(slot), "a" * pieces) for slot in range(STREAMS)]
    read_together(chats, LIMIT_SECONDS)
    close_all(chats)
    finished = max(chat.check().arrivals[-1] for chat in chats)
    return STREAMS * pieces / (finished - chats[0].started) / 1000


if __name__ == "__main__":
    ask(measure, __doc__)
