"""Weigh the server: idle, with one open stream, with 500.

Counted is the resident memory of the whole process tree, each time in a fresh server.
"""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

from harness.chat import Chat, WrongAnswerError, allow_many_connections, close_all, read_together
from harness.contestants import FASTAPI, OURS, fastapi, ours, slot_path
from harness.process import Server, free_port
from harness.question import ask
from harness.rounds import interleaved
from harness.table import Row, Table, at_most, beside

STREAMS = 500
DELAY = 0.05
TEXT = "a" * 4_000
SETTLE_SECONDS = 1.0
START_SECONDS = 30.0
HOLD_SECONDS = 2.0
KIB, MIB = 1024, 1024 * 1024

Command = Callable[[int], list[str]]
Weights = tuple[float, float, float]


def measure(quick: bool) -> Table:
    """Weigh fresh servers in interleaved rounds."""
    count = 1 if quick else 3
    allow_many_connections()
    commands = {
        OURS: partial(ours, delay=DELAY, slots=STREAMS),
        FASTAPI: partial(fastapi, delay=DELAY),
    }
    contestants = {name: partial(weigh, command) for name, command in commands.items()}
    found = {name: middle(many) for name, many in interleaved(contestants, count).items()}
    title = f"memory: MiB resident (last row: KiB), a piece every {DELAY:g} s, median of {count}"
    return Table(title, rows(found[OURS], found[FASTAPI]))


def rows(mine: Weights, theirs: Weights) -> list[Row]:
    """Compare the totals, and what each further stream costs."""
    states = ("idle", "1 stream", f"{STREAMS} streams")
    totals = [
        at_most(what, our_bytes / MIB, FASTAPI, their_bytes / MIB, 0.5)
        for what, our_bytes, their_bytes in zip(states, mine, theirs, strict=True)
    ]
    each = beside("KiB a stream", per_stream(mine) / KIB, FASTAPI, per_stream(theirs) / KIB)
    return [*totals, each]


def weigh(command: Command) -> Weights:
    """Return a server's resident bytes: idle, with one stream, with all streams."""
    port = free_port()
    with Server(command(port), port) as server:
        time.sleep(SETTLE_SECONDS)  # what is loaded in the background belongs to an idle server
        idle = server.rss_bytes()
        chats = flowing(port, range(1))
        one = server.rss_bytes()
        chats += flowing(port, range(1, STREAMS))
        every = server.rss_bytes()
        check_open(chats)
        close_all(chats)
    return idle, one, every


def flowing(port: int, slots: range) -> list[Chat]:
    """Open a stream in every slot, and read until all have flowed for a while."""
    chats = [Chat(port, slot_path(slot), TEXT) for slot in slots]
    deadline = time.monotonic() + START_SECONDS
    while not all(chat.started_flowing() for chat in chats):
        if time.monotonic() > deadline:
            raise WrongAnswerError(f"not every stream flowed within {START_SECONDS:g} s")
        read_together(chats, 0.5)
    read_together(chats, HOLD_SECONDS)
    return chats


def check_open(chats: list[Chat]) -> None:
    """Raise WrongAnswerError if a stream came to its end while it was weighed."""
    for chat in chats:
        if chat.over:
            raise WrongAnswerError(f"a stream ended early: {b''.join(chat.parts)[:200]!r}")


def middle(weights: list[Weights]) -> Weights:
    """Return the median of each state."""
    idle, one, every = (median(state) for state in zip(*weights, strict=True))
    return idle, one, every


def per_stream(weights: Weights) -> float:
    """Return the bytes that a further stream takes."""
    _, one, every = weights
    return (every - one) / (STREAMS - 1)


if __name__ == "__main__":
    ask(measure, __doc__)
