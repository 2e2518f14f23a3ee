"""Ask what the chatgpt backend costs beside the SDK's own client and beside http.client.

A fast service of OpenAI's kind runs as a process of its own. Ours is the whole executor, read by a
raw client as the Kernel reads it: a third process. The others read the service directly.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from harness.answer import Answer, form_request
from harness.chat import allow_many_connections, close_all, read_together
from harness.contestants import HERE, ROOT, slot_path
from harness.process import HOST, Server, clean_environment, free_port
from harness.rounds import interleaved, medians
from harness.table import Row, Table, at_least, beside
from services.openai_floor import PIECE

OURS, SDK, HTTP = "ours", "openai client", "http.client"
STREAMS = (1, 16, 64)
LIMIT_SECONDS = 120.0
PAUSE = 0.02  # seconds between two pieces where delays are measured: as fast as models write
GOALS = {1: 0.9, 64: 2.0}  # times the SDK's client
MAX_ADDED = 0.5  # ms


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="few pieces and rounds: a first impression")
    add("--file", type=Path, metavar="PYZ", help="a built file; default: the sources")
    options = parser.parse_args()
    allow_many_connections()
    with ExitStack() as stack:
        service, executor = free_port(), free_port()
        stack.enter_context(Server(_service(service), service))
        stack.enter_context(Server(_executor(options.file, executor, service), executor, cwd=ROOT))
        print(rates(service, executor, options.quick), end="\n\n", flush=True)
        print(delays(service, executor, options.quick))


def _service(port: int) -> list[str]:
    return [sys.executable, str(HERE), "services.openai_floor", "--port", str(port)]


def _executor(file: Path | None, port: int, service: int) -> list[str]:
    program = [str(file)] if file else ["-m", "kuwa_min"]
    return [
        *(sys.executable, *program, "chatgpt", "--base_url", f"http://{HOST}:{service}/v1"),
        *("--host", HOST, "--port", str(port), "--ignore_kernel", "--log", "WARNING"),
        *("--concurrent_req_limit", str(max(STREAMS))),
    ]


def rates(service: int, executor: int, quick: bool) -> Table:
    """Compare pieces a second, all chats together."""
    count, pieces = (3, 2_000) if quick else (7, 10_000)
    table = Table(f"rate: thousand pieces a second, median of {count}")
    for streams in STREAMS:
        each = max(200, pieces // streams * (1 if streams == 1 else 4))
        found = _measured(service, executor, streams, f"{each} 0", count, _rate)
        what = f"{streams} chat{'s' if streams > 1 else ''}"
        table.rows += [
            _against_sdk(what, found, streams),
            beside(what, found[OURS], HTTP, found[HTTP]),
        ]
    return table


def _against_sdk(what: str, found: dict[str, float], streams: int) -> Row:
    if streams in GOALS:
        return at_least(what, found[OURS], SDK, found[SDK], GOALS[streams])
    return beside(what, found[OURS], SDK, found[SDK])


def delays(service: int, executor: int, quick: bool) -> Table:
    """Compare the time from the service's write to a piece's arrival."""
    count, pieces = (3, 60) if quick else (7, 150)
    title = f"delay: ms from the service's write of a piece to its arrival, median of {count}"
    table = Table(title)
    for streams in STREAMS:
        found = _measured(service, executor, streams, f"{pieces} {PAUSE}", count, _delay)
        what = f"{streams} chat{'s' if streams > 1 else ''}"
        for name in (HTTP, SDK):
            added = found[OURS] - found[name]
            goal = f"<= +{MAX_ADDED:g}" if name == HTTP else "-"
            met = added <= MAX_ADDED if name == HTTP else None
            ratio = f"{found[OURS] / found[name]:.2f}"
            table.rows.append(Row(what, found[OURS], name, found[name], ratio, goal, met))
    return table


Figure = Callable[[float, Sequence[float], int], float]  # of seconds, delays, pieces


def _rate(seconds: float, _: Sequence[float], pieces: int) -> float:
    return pieces / seconds / 1000


def _delay(_: float, delays: Sequence[float], __: int) -> float:
    return statistics.median(delays) * 1000


def _measured(
    service: int, executor: int, streams: int, wish: str, count: int, figure: Figure
) -> dict[str, float]:
    """Return the median figure of every contestant, after one warm-up round."""
    contestants = {
        OURS: partial(_ours, executor, streams, wish, figure),
        SDK: partial(_bare, "sdk", service, streams, wish, figure),
        HTTP: partial(_bare, "http", service, streams, wish, figure),
    }
    interleaved(contestants, 1)
    return medians(interleaved(contestants, count))


def _bare(kind: str, port: int, streams: int, wish: str, figure: Figure) -> float:
    command = [
        sys.executable,
        str(HERE),
        "services.bare_clients",
        kind,
        str(port),
        str(streams),
        wish,
    ]
    done = subprocess.run(
        command, capture_output=True, check=True, timeout=LIMIT_SECONDS, env=clean_environment()
    )
    found = json.loads(done.stdout)
    pieces = streams * int(wish.split()[0])
    assert found["pieces"] == pieces, "a piece is missing"
    return figure(found["seconds"], found["delays"], pieces)


class Timed(Answer):
    """An answer whose pieces say when they were written."""

    def complete(self) -> bool:
        """Say whether every piece came."""
        return len(self.said().split()) == self.tokens

    def delays(self) -> list[float]:
        """Return the seconds from the writing of each piece to its arrival."""
        found: list[float] = []
        known = 0
        for number, arrival in enumerate(self.arrivals):
            words = b"".join(self.parts[: number + 1]).partition(b"\r\n\r\n")[2].split(b" ")
            moments = [int(word.rpartition(b"\n")[2]) for word in words[:-1]]
            found += [arrival - moment / 1e9 for moment in moments[known:]]
            known = len(moments)
        return found


def _ours(port: int, streams: int, wish: str, figure: Figure) -> float:
    pieces = int(wish.split()[0])
    chats = [Timed(port, form_request(slot_path(slot), [wish]), pieces) for slot in range(streams)]
    read_together(chats, LIMIT_SECONDS)
    close_all(chats)
    for chat in chats:
        chat.check()
    timed = not wish.endswith(" 0")
    if not timed:
        assert all(chat.said() == PIECE * pieces for chat in chats), "another text"
    seconds = max(chat.arrivals[-1] for chat in chats) - min(chat.started for chat in chats)
    delays = [delay for chat in chats for delay in chat.delays()] if timed else []
    return figure(seconds, delays, streams * pieces)


if __name__ == "__main__":
    main()
