"""Time the first import of what the backend imports, from a tree that was just unpacked.

Against a folder that pip filled and compiled. The page cache is warm in all cases: a tree that was
just written is in it.
"""

import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

from harness.child import Spent, remarks, spend
from harness.rounds import interleaved
from harness.table import Row, Table, at_most, beside
from packing.heavy import BACKEND

COMPILED, PLAIN, FOLDER = "file with --pyc", "file without", "folder by pip"
UNWRITTEN = "file with --pyc, no .pyc written"
Pair = tuple[Path, Path]  # the built file, and its copy that imports and then reports


def measure(
    files: Mapping[str, Pair], folder: Path, program: str, place: Path, count: int
) -> Table:
    """Import in interleaved rounds; our trees are unpacked anew for each, before the clock runs."""
    contestants: dict[str, Callable[[], Spent]] = {
        COMPILED: partial(from_fresh, files[COMPILED], place),
        UNWRITTEN: partial(from_fresh, files[COMPILED], place, PYTHONDONTWRITEBYTECODE=1),
        PLAIN: partial(from_fresh, files[PLAIN], place),
        FOLDER: partial(from_folder, folder, program),
    }
    interleaved(contestants, 1)
    found = interleaved(contestants, count)
    times = {name: [one.reached for one in many] for name, many in found.items()}
    used = {f"{name}, processor": [one.processor for one in many] for name, many in found.items()}
    title = f"first import of torch, transformers and the rest: s, median of {count}"
    return Table(title, rows(times), remarks({**times, **used}, "s"))


def rows(found: dict[str, list[float]]) -> list[Row]:
    """Compare with the folder."""
    middle = {name: median(values) for name, values in found.items()}
    goal = at_most(COMPILED, middle[COMPILED], FOLDER, middle[FOLDER], 1.1)
    others = (UNWRITTEN, PLAIN)
    return [goal, *(beside(name, middle[name], FOLDER, middle[FOLDER]) for name in others)]


def from_fresh(files: Pair, place: Path, **environment: object) -> Spent:
    """Unpack a file to a new root, then time its start with the imports."""
    root, (file, importing) = place / "imported", files
    try:
        spend([sys.executable, file, "unpack", root])
        return spend([sys.executable, importing, BACKEND], KUWA_MIN_ROOT=root, **environment)
    finally:
        shutil.rmtree(root)


def from_folder(folder: Path, program: str) -> Spent:
    """Import from a folder as from a site-packages, its .pth files included."""
    opening = f"import site\nsite.addsitedir({str(folder)!r})\n"
    return spend([sys.executable, "-c", f"{opening}{program}\nmain()"])
