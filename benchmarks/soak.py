"""Soak a built file: half an hour of hostile and unlucky clients, and a Kernel with faults.

First the load runs for a while to warm up, then it rests and the process is measured; the load runs
again, with restarts of the Kernel, and rests again. Then nothing may be stuck, every endpoint must
be registered, and memory, descriptors and threads must be what they were. Exit code 1 if not.
"""

import argparse
import json
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # for the tests' Kernel

from harness.process import cpu_seconds, entries, free_port, rss_bytes  # noqa: E402
from soaking.kernel import FaultyKernel  # noqa: E402
from soaking.load import Load  # noqa: E402

from tests.support.programs import Program  # noqa: E402

SCRIPTED = Path(__file__).with_name("soaking") / "scripted_executor.py"
WARM_UP, SHARE = 120.0, 0.3  # seconds of load before the first measuring, and at most this share
SETTLED = 3.0  # seconds without a change of descriptors and threads, and of the idle process
BAD_LINE = re.compile(r"^Traceback|\bERROR\b|\bCRITICAL\b|[Uu]nexpected", re.MULTILINE)


class Resources(NamedTuple):
    """What a process with its children holds while nothing runs."""

    resident: int  # bytes
    descriptors: int
    threads: int


class Check(NamedTuple):
    """What is, what should be, and whether it is."""

    what: str
    found: str
    wanted: str
    holds: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Soak, print what was found, and return the exit code."""
    options = _parser().parse_args(argv)
    words = [*options.arguments] or [str(SCRIPTED)]
    port = free_port()
    with FaultyKernel(options.seed) as kernel:
        words += ["--kernel_url", f"{kernel.url}/", "--host", "127.0.0.1", "--port", str(port)]
        words += ["--concurrent_req_limit", str(options.slots), "--waiting", str(options.slots)]
        with Program(*words, command=(sys.executable, str(options.file))) as program:
            program.wait_for("registered as")
            name = status(port)["access_codes"][0]
            load = Load(port, kernel, name, knows_answers=not options.arguments)
            checks = soak(program, kernel, load, options)
            program.process.terminate()
            code = program.end()
            checks += [Check("exit code after SIGTERM", str(code), "0", code == 0)]
            lines = BAD_LINE.findall(program.log)
            checks += [Check("lines of errors in the log", str(len(lines)), "0", not lines)]
            show(checks, load, kernel)
            if options.log:
                options.log.write_text(program.log, encoding="utf-8")
    return 0 if all(check.holds for check in checks) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    file = ROOT / "dist" / "kuwa-dummy.pyz"
    parser.add_argument("--file", type=Path, default=file, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=30.0, help="default: %(default)s")
    parser.add_argument("--slots", type=int, default=4, help="chats at once, and as many wait")
    parser.add_argument("--visitors", type=int, default=12, help="clients at once")
    parser.add_argument("--seed", type=int, default=14, help="default: %(default)s")
    parser.add_argument("--growth", type=float, default=5.0, help="percent of memory allowed")
    parser.add_argument(
        "--rest", type=float, default=60.0, metavar="SECONDS",
        help="in which all that is under way must end; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the executor's log")
    parser.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT",
        help="after --: executor and options, such as llamacpp --model_path x.gguf",
    )  # fmt: skip
    return parser


def soak(
    program: Program, kernel: FaultyKernel, load: Load, options: argparse.Namespace
) -> list[Check]:
    """Load, rest and compare."""
    pid, endpoints, seconds = program.process.pid, 2 * options.slots, options.minutes * 60
    warm_up = min(WARM_UP, SHARE * seconds)
    load.run(options.visitors, warm_up, options.seed)
    wait_until(lambda: busy(load) == "0, 0", options.rest)
    before = settled(pid, options.rest)
    kernel.begin_faults()
    load.run(options.visitors, seconds - warm_up, options.seed + 1)
    kernel.end_faults()
    checks = resting_checks(kernel, load, endpoints, options.rest)
    wait_until(lambda: measure(pid)[1:] == before[1:], options.rest)
    after = measure(pid)
    growth = 100 * (after.resident / before.resident - 1)
    idle = processor_share(pid)
    resident, allowed = f"{after.resident / 1e6:.1f} MB, {growth:+.1f} %", options.growth
    return [
        *checks,
        Check("memory, since the warm-up", resident, f"{allowed:+.0f} %", growth <= allowed),
        _equal("open descriptors", after.descriptors, before.descriptors),
        _equal("threads", after.threads, before.threads),
        Check("processor while idle", f"{idle:.2f} %", "1 %", idle < 1),
        Check("whole answers", str(answers := load.counts["answers"]), "some", answers > 0),
        _equal("problems that clients met", load.counts["problems"], 0),
    ]


def resting_checks(kernel: FaultyKernel, load: Load, endpoints: int, seconds: float) -> list[Check]:
    """Wait until all is at rest, and say what is not."""
    states = ["READY", -1, -1]

    def ready() -> int:
        return sum(row[1:] == states for row in kernel.rows)

    def rests() -> bool:
        found = status(load.port)
        idle = (found["busy_slots"], found["waiting"], found["registered"]) == (0, 0, True)
        return idle and ready() == endpoints

    wait_until(rests, seconds)
    with urllib.request.urlopen(f"http://127.0.0.1:{load.port}/health") as response:
        health = response.status
    return [
        Check("busy slots, waiting chats", busy(load), "0, 0", busy(load) == "0, 0"),
        _equal("free endpoints at the Kernel", ready(), endpoints),
        _equal("registered, by /status", status(load.port)["registered"], True),
        _equal("/health", health, 204),
    ]


def _equal(what: str, found: object, wanted: object) -> Check:
    return Check(what, str(found), str(wanted), found == wanted)


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    """Wait until something is so, or the time is over."""
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.2)


def busy(load: Load) -> str:
    """Return how many slots are taken and how many chats wait."""
    found = status(load.port)
    return f"{found['busy_slots']}, {found['waiting']}"


def status(port: int) -> dict[str, Any]:
    """Return what the executor says of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status") as response:
        found: dict[str, Any] = json.load(response)
    return found


def measure(pid: int) -> Resources:
    """Return what a process holds now."""
    return Resources(rss_bytes(pid), entries(pid, "fd"), entries(pid, "task"))


def settled(pid: int, seconds: float) -> Resources:
    """Wait until descriptors and threads have not changed for a while; return what is held."""
    deadline, since, last = time.monotonic() + seconds, time.monotonic(), measure(pid)
    while time.monotonic() - since < SETTLED and time.monotonic() < deadline:
        time.sleep(0.2)
        now = measure(pid)
        if now[1:] != last[1:]:
            since = time.monotonic()
        last = now
    return last


def processor_share(pid: int) -> float:
    """Return the percent of one processor that an idle process uses."""
    used, started = cpu_seconds(pid), time.monotonic()
    time.sleep(SETTLED)
    return 100 * (cpu_seconds(pid) - used) / (time.monotonic() - started)


def show(checks: list[Check], load: Load, kernel: FaultyKernel) -> None:
    """Print what was done and what was found."""
    done = ", ".join(f"{name} {count}" for name, count in sorted(load.counts.items()))
    print(f"done: {done}; faults of the Kernel {kernel.changes}\n")
    for check in checks:
        held = "yes" if check.holds else "NO"
        print(f"{check.what:30} {check.found:22} {check.wanted:8} {held}")
    for problem in load.problems:
        print(f"problem: {problem}")


if __name__ == "__main__":
    sys.exit(main())
