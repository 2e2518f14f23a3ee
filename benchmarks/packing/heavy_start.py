"""Time a warm start of the heavy file to the point where it would import the program.

There the libraries are importable. Beside it an empty .pyz, and a stock shiv file of the same
wheels; all report to the same pipe by the same lines.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from harness.child import Spent, remarks, spend
from harness.rounds import interleaved
from harness.table import Row, Table, at_most, beside
from packing.heavy import BACKEND, FILE

OURS, EMPTY, SHIV = f"{FILE}, warm", "empty .pyz", "stock shiv file"
UNWRITTEN = "the same, no .pyc written"  # many containers set PYTHONDONTWRITEBYTECODE
MIB = 2**20


def measure(ours: Path, empty: Path, shiv: Path | None, home: Path, count: int) -> Table:
    """Start files that were unpacked before, in interleaved rounds."""
    contestants: dict[str, Callable[[], Spent]] = {
        OURS: partial(start, ours, BACKEND, HOME=home),
        UNWRITTEN: partial(start, ours, BACKEND, HOME=home, PYTHONDONTWRITEBYTECODE=1),
        EMPTY: partial(start, empty, HOME=home),
    }
    if shiv:
        contestants[SHIV] = partial(start, shiv, HOME=home)
    interleaved(contestants, 2)  # shiv and Python unpack and compile what they want to keep
    found = interleaved(contestants, count)
    times = {name: [1000 * one.reached for one in many] for name, many in found.items()}
    title = f"warm start of the heavy file: ms from exec to the hand-over, median of {count}"
    return Table(title, [*time_rows(times), *weight_rows(found)], remarks(times, "ms"))


def start(file: Path, *words: str, **environment: object) -> Spent:
    """Start a file with an interpreter that has no site hooks of its own."""
    return spend([sys.executable, file, *words], **environment)


def time_rows(found: dict[str, list[float]]) -> list[Row]:
    """Compare with the empty file; shiv's own ratio to it stands in its row."""
    middle = {name: median(values) for name, values in found.items()}
    others = [name for name in found if name not in (OURS, EMPTY)]
    return [
        at_most(OURS, middle[OURS], EMPTY, middle[EMPTY], 1.3),
        *(beside(name, middle[name], EMPTY, middle[EMPTY]) for name in others),
    ]


def weight_rows(found: dict[str, list[Spent]]) -> list[Row]:
    """Compare the memory at the hand-over."""
    weights = {name: median(one.resident / MIB for one in many) for name, many in found.items()}
    shown = [name for name in found if name not in (EMPTY, UNWRITTEN)]
    return [beside(f"MiB: {name}", weights[name], EMPTY, weights[EMPTY]) for name in shown]
