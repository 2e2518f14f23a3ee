"""Time from the connect to the first byte of the answer, on an idle server.

Every chat has a connection of its own, as the Kernel makes them.
"""

from contextlib import ExitStack
from functools import partial
from statistics import median

from harness.chat import Chat
from harness.contestants import FASTAPI, FLOOR, OURS, Command, fastapi, floor, ours, slot_path
from harness.process import Server, free_port
from harness.question import ask
from harness.rounds import interleaved, percentile
from harness.table import Row, Table, beside, within

DELAYS = (0.02, 0.0)
COMMANDS: dict[str, Command] = {OURS: ours, FLOOR: floor, FASTAPI: fastapi}


def measure(quick: bool) -> Table:
    """Chat in interleaved rounds, once for each delay between pieces."""
    count = 60 if quick else 300
    rows = [row for delay in DELAYS for row in compared(delay, count)]
    return Table(f"first piece: ms from connect to the first body byte, n = {count}", rows)


def compared(delay: float, count: int) -> list[Row]:
    """Measure all contestants at one delay; our median is to stay within 1 ms of the floor's."""
    found = measured(delay, count)
    middle = {name: median(values) for name, values in found.items()}
    late = {name: percentile(values, 0.95) for name, values in found.items()}
    what = f"--delay {delay:g}"
    return [
        within(f"{what}, median", middle[OURS], FLOOR, middle[FLOOR], 1),
        beside(f"{what}, median", middle[OURS], FASTAPI, middle[FASTAPI]),
        beside(f"{what}, p95", late[OURS], FLOOR, late[FLOOR]),
        beside(f"{what}, p95", late[OURS], FASTAPI, late[FASTAPI]),
    ]


def measured(delay: float, count: int) -> dict[str, list[float]]:
    """Return `count` milliseconds of every contestant, after a few chats to warm up."""
    contestants = {}
    with ExitStack() as stack:
        for name, command in COMMANDS.items():
            port = free_port()
            stack.enter_context(Server(command(port, delay=delay), port))
            contestants[name] = partial(first_piece_milliseconds, port)
        interleaved(contestants, 10)
        return interleaved(contestants, count)


def first_piece_milliseconds(port: int) -> float:
    """Chat two pieces, and return when the first came."""
    chat = Chat(port, slot_path(0), "ab").read_to_end().check()
    return 1000 * chat.first_piece_seconds()


if __name__ == "__main__":
    ask(measure, __doc__)
