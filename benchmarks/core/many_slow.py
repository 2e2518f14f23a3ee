"""Hold 1,000 slow streams at once, and check every byte and its order."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

from harness.chat import Chat, allow_many_connections, close_all, read_together
from harness.contestants import FASTAPI, OURS, fastapi, ours, slot_path
from harness.process import Server, free_port
from harness.question import ask
from harness.rounds import interleaved
from harness.table import Row, Table, all_of, beside

STREAMS = 1_000
DELAY = 0.2
PIECES = 60
LIMIT_SECONDS = 60.0
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Held:
    """What one server did with all streams; gaps in units of the delay."""

    completed: int
    wall_seconds: float
    worst_gap: float
    rss_mib: float
    cpu_seconds: float


def measure(quick: bool) -> Table:
    """Hold all streams on each server in turn."""
    count = 1 if quick else 2
    allow_many_connections()
    commands = {
        OURS: partial(ours, delay=DELAY, slots=STREAMS),
        FASTAPI: partial(fastapi, delay=DELAY),
    }
    contestants = {name: partial(hold, command) for name, command in commands.items()}
    found = interleaved(contestants, count)
    ideal = PIECES * DELAY
    title = f"{STREAMS:,} slow streams: {PIECES} pieces, one every {DELAY:g} s, n = {count}"
    remark = f"completed: the least; others: the median; wall time is {ideal:g} s at best"
    return Table(title, rows(found[OURS], found[FASTAPI]), [remark])


def rows(mine: list[Held], theirs: list[Held]) -> list[Row]:
    """Compare what was held and what it took."""
    least = [min(held.completed for held in many) for many in (mine, theirs)]
    kinds: dict[str, Callable[[Held], float]] = {
        "wall time, s": lambda held: held.wall_seconds,
        "worst gap / delay": lambda held: held.worst_gap,
        "resident, MiB": lambda held: held.rss_mib,
        "processor, s": lambda held: held.cpu_seconds,
    }
    return [
        all_of("completed in order", least[0], FASTAPI, least[1], STREAMS),
        *(
            beside(what, median(map(kind, mine)), FASTAPI, median(map(kind, theirs)))
            for what, kind in kinds.items()
        ),
    ]


def hold(command: Callable[[int], list[str]]) -> Held:
    """Hold all streams on a fresh server until they end."""
    port = free_port()
    with Server(command(port), port) as server:
        cpu = server.cpu_seconds()
        started = time.perf_counter()
        chats = [Chat(port, slot_path(slot), text(slot)) for slot in range(STREAMS)]
        read_together(chats, PIECES * DELAY / 2)
        rss = server.rss_bytes()
        read_together([chat for chat in chats if not chat.over], LIMIT_SECONDS)
        wall = time.perf_counter() - started
        cpu = server.cpu_seconds() - cpu
        close_all(chats)
    worst = max((gap for chat in chats for gap in chat.gaps()), default=0.0)
    completed = sum(chat.complete() for chat in chats)
    return Held(completed, wall, worst / DELAY, rss / 2**20, cpu)


def text(slot: int) -> str:
    """Return a text of the slot's own, whose order shows."""
    return f"{slot:04d}{ALPHABET * 3}"[:PIECES]


if __name__ == "__main__":
    ask(measure, __doc__)
