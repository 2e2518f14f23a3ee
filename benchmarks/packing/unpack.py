"""Time the first start of the heavy file, which unpacks, against `cp -r` of the unpacked tree.

Ours is timed from exec to the hand-over: checks of the machine, index and CRC of every member are
in it. Both read from the page cache.
"""

import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

from harness.child import Spent, remarks, spend, to_disk
from harness.rounds import interleaved
from harness.table import Row, Table, at_most, beside
from packing.heavy import BACKEND

OURS, COPY, SHIV = "first start", "cp -r", "stock shiv file"
Pair = tuple[Spent, float]


def measure(ours: Path, tree: Path, shiv: Path | None, place: Path, count: int) -> Table:
    """Unpack and copy in interleaved rounds, each time into a folder that is new."""
    fresh = place / "fresh"
    contestants: dict[str, Callable[[], Pair]] = {
        OURS: partial(timed, fresh, [sys.executable, ours, BACKEND], KUWA_MIN_ROOT=fresh),
        COPY: partial(timed, fresh, ["cp", "-r", tree, fresh]),
    }
    if shiv:
        contestants[SHIV] = partial(timed, fresh, [sys.executable, shiv], SHIV_ROOT=fresh)
    interleaved(contestants, 1)
    found = interleaved(contestants, count)
    reached = {f"{name}, wall": [one.reached for one, _ in many] for name, many in found.items()}
    used = {f"{name}, processor": [one.processor for one, _ in m] for name, m in found.items()}
    title = f"cold unpack: s, median of {count}"
    return Table(title, rows(found), remarks({**reached, **used}, "s"))


def timed(fresh: Path, command: list[object], **environment: object) -> Pair:
    """Run a command that fills the fresh folder, and remove that."""
    fresh.mkdir(mode=0o700)
    try:
        return to_disk(partial(spend, command, **environment))
    finally:
        shutil.rmtree(fresh)


def rows(found: Mapping[str, list[Pair]]) -> list[Row]:
    """Compare to the hand-over, to the end of all writing, and by what it took."""
    wall = {name: median(one.reached for one, _ in many) for name, many in found.items()}
    disk = {name: median(seconds for _, seconds in many) for name, many in found.items()}
    used = {name: median(one.processor for one, _ in many) for name, many in found.items()}
    others = [name for name in found if name not in (OURS, COPY)]
    return [
        at_most(f"{OURS}, wall", wall[OURS], COPY, wall[COPY], 1.2),
        beside(f"{OURS}, until the disk has it", disk[OURS], COPY, disk[COPY]),
        beside(f"{OURS}, processor", used[OURS], COPY, used[COPY]),
        *(beside(f"{name}, wall", wall[name], COPY, wall[COPY]) for name in others),
    ]
