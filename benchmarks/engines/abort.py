"""Time an abort: from GET /chat/abort until the process computes no more.

What the processors spend on a process is read per thread, in nanoseconds, which the system brings
up to date whenever a thread begins to wait.
"""

import socket
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from engines.servers import OURS, Engines
from harness.answer import Answer, get
from harness.chat import HEAD_END, SILENCE_SECONDS, WrongAnswerError
from harness.plan import Plan
from harness.process import HOST
from harness.prompts import EQUAL, prompt
from harness.table import Row, Table, at_most, beside

DECODE_LIMIT, PREFILL_LIMIT = 20, 200  # ms
PREFILL_TOKENS = 2400
LONG_ANSWER = 1500
TRIES = 4
FLOWING_PARTS = 10
POLL_SECONDS = 0.001
QUIET_SECONDS = 0.2
SPARE_SECONDS = 0.0005  # of a processor, in the quiet time: an idle one used at most 0.0002
LIMIT_SECONDS = 60.0
LIMIT = "the limit"


class Processor:
    """What the processors have spent on a process, its ended threads included."""

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._spent: dict[str, int] = {}

    def seconds(self) -> float:
        """Return the processor seconds so far."""
        for task in self._tasks.iterdir():
            with suppress(OSError):  # the thread has ended since
                self._spent[task.name] = int((task / "schedstat").read_text().split()[0])
        return sum(self._spent.values()) / 1e9


def measure(engines: Engines, plan: Plan) -> Table:
    """Abort in turn while tokens come, and while a long prompt is read."""
    engine = engines[OURS]
    prefill = engine.chat(0, [prompt(PREFILL_TOKENS)], 1).read_to_end().check()
    third = prefill.first_piece_seconds() / 3
    decoding, reading = [], []
    for _ in range(plan.aborts):
        decoding.append(1000 * abort_while_decoding(engine))
        reading.append(abort_while_reading(engine, third))
    rows = [
        *rows_of("while decoding", decoding, DECODE_LIMIT),
        *rows_of(
            f"while reading {PREFILL_TOKENS:,} tokens",
            [1000 * seconds for seconds, _ in reading],
            PREFILL_LIMIT,
        ),
    ]
    title = f"abort, {plan.model} model: ms until the process is idle, n = {plan.aborts}"
    early = sum(caught for _, caught in reading)
    remarks = [
        f"reading the whole prompt takes {3000 * third:,.0f} ms",
        f"{early} of {plan.aborts} were aborted before a token had come",
    ]
    return Table(title, rows, remarks)


def rows_of(what: str, found: list[float], limit: float) -> list[Row]:
    """Promise the median; show the worst."""
    return [
        at_most(f"{what}, median", median(found), LIMIT, limit, 1),
        beside(f"{what}, worst", max(found), LIMIT, limit),
    ]


def abort_while_decoding(engine: Any) -> float:
    """Return the seconds from the abort to idleness when an answer is flowing."""
    answer = engine.chat(0, [prompt(EQUAL[0])], LONG_ANSWER)
    while len(answer.parts) < FLOWING_PARTS and answer.read():
        pass
    return aborted(engine, answer)


def abort_while_reading(engine: Any, wait: float) -> tuple[float, bool]:
    """Return the same for a prompt of which about a third was read, and whether it was caught so.

    A machine that has become faster since has read all of it by then: it is tried again, sooner.
    """
    for halving in range(TRIES):
        answer = engine.chat(0, [prompt(PREFILL_TOKENS)], LONG_ANSWER)
        time.sleep(wait / 2**halving)
        seconds = aborted(engine, answer)
        if not answer.said():
            return seconds, True
    return seconds, False


def aborted(engine: Any, answer: Answer) -> float:
    """Abort the only answer; return the seconds until the process is idle."""
    processor = Processor(engine.process.pid)
    with socket.create_connection((HOST, engine.port), timeout=SILENCE_SECONDS) as connection:
        began = time.perf_counter()
        connection.sendall(get("/chat/abort"))
        idle = until_idle(processor, began)
        reply = connection.recv(4096).partition(HEAD_END)
    while answer.read():
        pass
    answer.socket.close()
    if b"Aborted" not in reply[2]:
        raise WrongAnswerError(f"nothing was aborted: {reply!r}")
    return idle - began


def until_idle(processor: Processor, began: float) -> float:
    """Watch until hardly anything was spent for a while; return when that while began."""
    samples = [(began, processor.seconds())]
    while samples[-1][0] < began + LIMIT_SECONDS:
        time.sleep(POLL_SECONDS)
        spent = processor.seconds()
        samples.append((time.perf_counter(), spent))
        idle = next(at for at, before in samples if spent - before <= SPARE_SECONDS)
        if samples[-1][0] - idle >= QUIET_SECONDS:
            return idle
    raise WrongAnswerError(f"the process still computes {LIMIT_SECONDS:g} s after the abort")
