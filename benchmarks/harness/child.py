"""Run a command to its end; say how long it took, to what point, and what it used."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from harness.process import clean_environment

REPORT = """
import os
def main():
    os.write(1, b"!")
    with open("/proc/self/status", "rb") as status:
        os.write(1, status.read())
    return 0
"""  # what a program does at the point that is timed: a byte first, then what it weighs
KIB = 1024


class ChildFailedError(RuntimeError):
    """Say which command failed, and the end of what it printed."""


@dataclass(frozen=True)
class Spent:
    """What one run took: seconds on the wall and on the processors, and bytes of memory.

    `reached` is the wall time to the first byte on stdout, `resident` the most that the process
    held until then, by its own report. `largest` is the largest process of all that it started,
    and never less than this process was when it started the first.
    """

    reached: float
    seconds: float
    processor: float
    resident: int
    largest: int


def spend(command: Sequence[object], **environment: object) -> Spent:
    """Run a command without PYTHON* settings, and with these; raises ChildFailedError."""
    words, variables = [str(word) for word in command], clean_environment()
    variables |= {name: str(value) for name, value in environment.items()}
    started = time.perf_counter()
    process = subprocess.Popen(
        words, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=-1
    )
    with process.stdout, process.stderr:
        report = process.stdout.read(1)
        reached = time.perf_counter() - started
        report += process.stdout.read()
        errors = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ChildFailedError(f"{' '.join(words)}\n{errors.decode()[-2000:]}")
    return Spent(
        reached=reached,
        seconds=seconds,
        processor=used.ru_utime + used.ru_stime,
        resident=_high_water(report),
        largest=used.ru_maxrss * KIB,
    )


def _high_water(report: bytes) -> int:
    """Return the bytes that a process reported as its most; 0 if it reported nothing."""
    lines = [line.split() for line in report.splitlines() if line.startswith(b"VmHWM:")]
    return int(lines[0][1]) * KIB if lines else 0


def to_disk(run: Callable[[], Spent]) -> tuple[Spent, float]:
    """Begin with nothing left to write, run, and return also the seconds until the disk has all."""
    os.sync()
    started = time.perf_counter()
    spent = run()
    os.sync()
    return spent, time.perf_counter() - started


def forget(paths: Sequence[Path]) -> None:
    """Ask the system to drop these files from its page cache; needs no root."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def spread(values: Sequence[float], unit: str) -> str:
    """Write median and quartiles, or all of a few values."""
    if len(values) < 4:
        return f"{', '.join(f'{value:.3g}' for value in sorted(values))} {unit}"
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.3g} {unit}, half of them {low:.3g} to {high:.3g}"


def remarks(found: Mapping[str, Sequence[float]], unit: str) -> list[str]:
    """Write a line on how far the values of every contestant lie apart."""
    return [f"{name}: {spread(values, unit)}" for name, values in found.items()]
