"""Ask what one large file costs: its warm start, its build, its unpacking, its first import.

On the real huggingface file for this Python. Without --lock build.py resolves and downloads what
the file needs, once; the wheels stay in the wheelhouse. Everything takes about 20 minutes and 12 GB
of disk where temporary files go (TMPDIR).
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from harness.child import Spent, spend
from harness.contestants import HERE, ROOT
from harness.process import scratch
from harness.table import Table
from packing import build_time, first_import, heavy_start, unpack
from packing.heavy import (
    FILE,
    Supplies,
    empty_file,
    file_by_shiv,
    folder_by_pip,
    handing_over,
    importing,
)

GB = 1_000_000_000


class Prepared:
    """Make the files and folders that are compared, each when it is first asked for."""

    def __init__(self, options: argparse.Namespace, place: Path) -> None:
        self.options, self.place = options, place

    @cached_property
    def supplies(self) -> Supplies:
        """Return what the real file is built from; of the lock a copy, for a build narrows it."""
        given, lock = self.options.lock, self.place / "real.lock"
        if given:
            shutil.copyfile(given, lock)
        wheels, wheelhouse = self.options.wheels, self.options.wheelhouse
        return Supplies(self.place, wheels, wheelhouse, lock, () if given else ("--cpu",))

    @cached_property
    def plain(self) -> Path:
        """Build the file."""
        self.supplies.build(self.place / "plain")
        return self.place / "plain" / FILE

    @cached_property
    def compiled(self) -> Path:
        """Build the file with the bytecode of what is imported."""
        self.supplies.build(self.place / "compiled", "--pyc")
        return self.place / "compiled" / FILE

    @cached_property
    def wheels(self) -> list[Path]:
        """Return the wheels that are in the file."""
        return self.supplies.wheels_of(self.plain)

    @cached_property
    def folder(self) -> tuple[Path, Spent]:
        """Install the wheels into a folder; return also what that took."""
        return self.place / "folder", folder_by_pip(self.wheels, self.place / "folder")

    @cached_property
    def shiv(self) -> tuple[Path, Spent] | None:
        """Make the stock shiv file, if wanted; return also what that took, without pip."""
        if self.options.no_shiv:
            return None
        target = self.place / "shiv.pyz"
        return target, file_by_shiv(self.folder[0], target)

    @cached_property
    def stopping(self) -> Path:
        """Return the file without bytecode, stopping at the hand-over."""
        return handing_over(self.plain, self.place / "stopping.pyz")

    @cached_property
    def home(self) -> Path:
        """Return a home whose cache holds the unpacked file."""
        home = self.place / "home"
        spend([sys.executable, self.plain, "unpack", home / ".cache" / "kuwa"])
        return home

    @property
    def tree(self) -> Path:
        """Return the unpacked tree in that home."""
        return next(self.home.glob(".cache/kuwa/*/tree"))


def start(prepared: Prepared, quick: bool) -> list[Table]:
    """Ask for the warm start."""
    shiv, empty = prepared.shiv, empty_file(prepared.place / "empty.pyz")
    count = 7 if quick else 31
    home, file = prepared.home, prepared.stopping
    return [heavy_start.measure(file, empty, shiv[0] if shiv else None, home, count)]


def build(prepared: Prepared, quick: bool) -> list[Table]:
    """Ask for the build, of the real file and of one as large as CUDA's."""
    count = 3 if quick else 7
    others = {}
    if prepared.shiv:
        others["pip and shiv"] = prepared.folder[1].seconds + prepared.shiv[1].seconds
        others["shiv alone"] = prepared.shiv[1].seconds
    real = build_time.measure(prepared.supplies, prepared.wheels, "the real file", count, others)
    if not prepared.options.synthetic_gb:
        return [real]
    folder, place = prepared.place / "synthetic", prepared.place / "synthetic-build"
    size = int(prepared.options.synthetic_gb * GB)
    spend([sys.executable, HERE, "packing.synthetic", folder, size])
    place.mkdir()
    supplies = Supplies(place, [folder], place / "house", place / "lock", ["--no_index"])
    large = build_time.measure(supplies, sorted(folder.iterdir()), "random bytes", count, {})
    shutil.rmtree(folder)
    return [real, large]


def cold(prepared: Prepared, quick: bool) -> list[Table]:
    """Ask for the first start."""
    shiv, place = prepared.shiv, prepared.place
    count, tree = 3 if quick else 5, prepared.tree
    return [unpack.measure(prepared.stopping, tree, shiv[0] if shiv else None, place, count)]


def imports(prepared: Prepared, quick: bool) -> list[Table]:
    """Ask for the first import."""
    program, place = importing(), prepared.place
    files = {
        first_import.COMPILED: prepared.compiled,
        first_import.PLAIN: prepared.plain,
    }
    pairs = {
        name: (file, handing_over(file, place / f"importing-{number}.pyz", program))
        for number, (name, file) in enumerate(files.items())
    }
    return [first_import.measure(pairs, prepared.folder[0], program, place, 3 if quick else 5)]


QUESTIONS: dict[str, Callable[[Prepared, bool], list[Table]]] = {
    "start": start,
    "build": build,
    "unpack": cold,
    "import": imports,
}


def main() -> None:
    """Ask the questions that were named, or all."""
    options = _parser().parse_args()
    verdicts = []
    with scratch() as place:
        prepared = Prepared(options, place)
        for name in options.question or QUESTIONS:
            for table in QUESTIONS[name](prepared, options.quick):
                print(table, end="\n\n", flush=True)
                verdicts += [row.met for row in table.rows if row.met is not None]
    print(f"{sum(verdicts)} of {len(verdicts)} goals met")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("question", nargs="*", help=f"of {', '.join(QUESTIONS)}; default: all")
    add("--quick", action="store_true", help="fewer rounds: a first impression")
    add("--wheels", metavar="DIR", type=Path, action="append", default=[], help="as of build.py")
    add("--wheelhouse", metavar="DIR", type=Path, default=ROOT / "build" / "wheels", help="as well")
    add("--lock", metavar="FILE", type=Path, help="for this Python; its wheels are in the folders")
    add("--no_shiv", action="store_true", help="leave out the stock shiv file, which takes minutes")
    add("--synthetic_gb", metavar="N", type=float, default=2.5, help="default: %(default)s")
    return parser


if __name__ == "__main__":
    main()
