"""A home and a folder with a built file, for the tests of refusals and of unpacking."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from kuwa_min.bundle.archive import Archive
from tests.support.programs import Program
from tests.support.stub_build import PROBE, Done, below, mounting, payload_id, start

NAME = "kuwa-huggingface.pyz"


class Installation:
    """A home, and a folder with the file and a custom executor that imports torch and ends."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.home, self.place = folder / "home", folder / "place"
        self.home.mkdir()
        self.place.mkdir()
        self.file = Path(shutil.copy(file, self.place / NAME))
        self.probe = self.place / "probe.py"
        self.probe.write_text(PROBE, encoding="ascii")
        self.root = self.home / ".cache" / "kuwa"
        self.key = payload_id(file)
        self.tree = self.root / self.key / "tree"
        self.ran = self.ran_from(self.root)

    def ran_from(self, root: Path) -> str:
        """Return what the executor says when its libraries lie in this root."""
        return f"torch {root}/{self.key}/tree/torch/__init__.py\n"

    def start(self, *words: object, python: str = sys.executable, **variables: object) -> Done:
        """Start the file with these words."""
        return start(python, self.file, *words, **{"HOME": self.home, **variables})

    def run(self, *options: object, **variables: object) -> Done:
        """Start what imports torch."""
        return self.start(self.probe, *options, **variables)

    def mounted(self, script: str, *options: object, **variables: object) -> Done:
        """Start what imports torch after this script, in mounts of its own."""
        command = mounting(f'{script}\n"$@"', sys.executable, self.file, self.probe, *options)
        return start(*command, **{"HOME": self.home, **variables})

    def program(self, *words: object) -> Program:
        """Start the file in the background."""
        command = (sys.executable, str(self.file))
        return Program(*map(str, words), command=command, HOME=str(self.home))

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was written."""
        return below(self.home) == [] and below(self.place) == [NAME, "probe.py"]

    def left_overs(self) -> list[str]:
        """Return what is in the cache that is no whole entry, lock or tag."""
        kept = {self.key, f"{self.key}.lock", "CACHEDIR.TAG"}
        return sorted({path.partition("/")[0] for path in below(self.root)} - kept)

    def unpacked(self, root: Path | None = None) -> str:
        """Return the line that announces the unpacking."""
        payload = Archive(str(self.file)).payloads[0]
        what = f"libraries ({payload['bytes'] / 1e6:.1f} MB, {payload['files']} files)"
        return f"{NAME}: unpacking {what} to {root or self.root}/{self.key}; this is done once\n"
