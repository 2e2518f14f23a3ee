"""Time a build against `cp` of its wheels to the same disk.

Lock and wheels are local, and what was once learned of the wheels lies in the wheelhouse: a build
resolves, downloads and surveys nothing. Beside it the first build of these wheels, which surveys.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from harness.child import Spent, forget, remarks, spend, to_disk
from harness.rounds import interleaved
from harness.table import Row, Table, at_most, beside
from packing.heavy import Supplies

BUILD, COPY = "build", "cp of the wheels"
MB = 1_000_000
Pair = tuple[Spent, float]


def measure(
    supplies: Supplies, wheels: Sequence[Path], what: str, count: int, others: Mapping[str, float]
) -> Table:
    """Build and copy in interleaved rounds; `others` are seconds that were measured before."""
    contestants = {BUILD: partial(build, supplies), COPY: partial(copy, supplies.place, wheels)}
    interleaved(contestants, 1)
    warm = interleaved(contestants, count)
    from_disk = {name: partial(cold_run, run, wheels) for name, run in contestants.items()}
    cold = interleaved(from_disk, 3)
    size = sum(wheel.stat().st_size for wheel in wheels) / MB
    wall = median(one.seconds for one, _ in warm[COPY])
    compared = [beside(name, seconds, COPY, wall) for name, seconds in others.items()]
    title = f"build of {what}: s, {len(wheels)} wheels of {size:,.0f} MB, median of {count}"
    times = {f"{name}, wall": [one.seconds for one, _ in many] for name, many in warm.items()}
    times |= {f"{name}, processor": [one.processor for one, _ in m] for name, m in warm.items()}
    return Table(title, [*rows(warm, cold), *compared], remarks(times, "s"))


def rows(warm: Mapping[str, list[Pair]], cold: Mapping[str, list[Pair]]) -> list[Row]:
    """Compare wall time with the goal, then all the rest."""
    wall = {name: median(one.seconds for one, _ in many) for name, many in warm.items()}
    used = {name: median(one.processor for one, _ in many) for name, many in warm.items()}
    disk = {name: median(seconds for _, seconds in many) for name, many in warm.items()}
    from_disk = {name: median(seconds for _, seconds in many) for name, many in cold.items()}
    peak = max(one.largest for one, _ in warm[BUILD]) / MB
    return [
        at_most("wall, page cache warm", wall[BUILD], COPY, wall[COPY], 1.5),
        beside("until the disk has it", disk[BUILD], COPY, disk[COPY]),
        beside("from disk to disk", from_disk[BUILD], COPY, from_disk[COPY]),
        beside("processor", used[BUILD], COPY, used[COPY]),
        at_most("MB: largest process", peak, "100 MB", 100, 1),
    ]


def build(supplies: Supplies) -> Pair:
    """Build into a fresh folder, and remove it."""
    output = supplies.place / "built"
    try:
        return to_disk(partial(supplies.build, output))
    finally:
        shutil.rmtree(output)


def copy(place: Path, wheels: Sequence[Path]) -> Pair:
    """Copy the wheels into a fresh folder, and remove it."""
    folder = place / "copied"
    folder.mkdir()
    try:
        return to_disk(partial(spend, ["cp", *wheels, folder]))
    finally:
        shutil.rmtree(folder)


def cold_run(run: Callable[[], Pair], wheels: Sequence[Path]) -> Pair:
    """Run after the wheels were dropped from the page cache."""
    os.sync()
    forget(wheels)
    return run()
