"""The real files with the real libraries, and machines without internet to carry them to.

`make heavy` fetches torch and compiles llama.cpp (ten minutes, kept in build/), `make cloud`
fetches what services need; without that, the tests that want such a file are skipped. What stands
for another machine is a mount and network namespace in which the project does not exist.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import ROOT
from tests.support.stub_build import below

TORCH, WHEELS = ROOT / "build" / "torch", ROOT / "build" / "wheels"
READY = {
    "huggingface": TORCH,
    "llamacpp": WHEELS / "llama-ready",
    "chatgpt": WHEELS / "cloud-ready",
    "geminipro": WHEELS / "cloud-ready",
}
LOAD = "tests.support.load"  # where the programs lie that run on a machine
SUPPORT = ROOT / "tests" / "support"
DRIVERS = (ROOT / "tests/__init__.py", *SUPPORT.glob("*.py"), *SUPPORT.glob("load/*.py"))
HIDE = 'mount -t tmpfs none "$1" && shift && exec "$@"'  # nothing of the project is there
PRIVATE = ("unshare", "--map-root-user", "--mount", "--net")


def build(backend: str, folder: Path) -> None:
    """Build a backend's file with its real libraries below a folder."""
    wheels = ["--wheels", str(TORCH)] if backend == "huggingface" else []
    words = [backend, "--output", str(folder / "dist"), "--prune", *wheels]
    subprocess.run([sys.executable, "build.py", *words], cwd=ROOT, check=True)


class HeavyFile:
    """A backend's file with its real libraries, built below a folder."""

    def __init__(self, backend: str, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "dist" / f"kuwa-{backend}.pyz"

    @cached_property
    def libraries(self) -> Path:
        """Unpack the file; return the folder that its libraries are imported from."""
        command = [sys.executable, str(self.path), "unpack", str(self._folder / "root")]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        return Path(said.partition(": ")[0]) / "tree"

    def run_python(self, *words: object) -> str:
        """Run Python where it finds those libraries and our modules; return what it prints.

        In a process of its own, because the Python of the tests may lack them.
        """
        path = os.pathsep.join(map(str, [ROOT, self.libraries]))
        command = [sys.executable, *map(str, words)]
        known = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(
            command, env=known, stdout=subprocess.PIPE, text=True, check=True
        ).stdout


class Machine:
    """A machine without internet: a home, and a folder with what was carried there."""

    def __init__(self, folder: Path, file: Path, *models: Path) -> None:
        need_namespaces()
        self.home, self.place, self.scratch = (folder / one for one in ("home", "place", "tmp"))
        for one in (self.home, self.place, self.scratch):
            one.mkdir()
        for source in (file, file.with_name(f"{file.name}.sha256")):
            shutil.copy(source, self.place)
        for source in DRIVERS:
            copied = self.place / source.relative_to(ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copied)
        for model in models:
            copy = shutil.copytree if model.is_dir() else shutil.copy
            copy(model, self.place / model.name)
        self._carried = below(self.place)

    def run(self, driver: str, *words: object) -> dict[str, Any]:
        """Run a module there, on the loopback alone; return the JSON that it prints."""
        python = os.path.realpath(sys.executable)  # not the tests' own environment
        module = f"{LOAD}.{driver}"
        driven = [python, "-B", "-m", module, *words]  # the program itself may write .pyc
        command = [*PRIVATE, "sh", "-c", HIDE, "sh", ROOT, *driven]
        clean = {"PATH": os.defpath, "HOME": str(self.home), "LC_ALL": "C.UTF-8"}
        clean |= {"TMPDIR": str(self.scratch), "PYTHONPATH": str(self.place)}
        done = subprocess.run(
            list(map(str, command)), cwd=self.place, env=clean, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return seen

    def left_overs(self) -> list[str]:
        """Return what was written there outside the cache of our files."""
        caches = [path for path in below(self.home) if not path.startswith(".cache/kuwa/")]
        written = [path for path in below(self.place) if path not in self._carried]
        return [*(set(caches) - {".cache", ".cache/kuwa"}), *written, *below(self.scratch)]


def need(backend: str) -> None:
    """Skip a test that cannot have a backend's libraries."""
    if not READY[backend].exists():
        pytest.skip(
            f"the libraries of {backend} are not here: make heavy and make cloud fetch them"
        )


def need_namespaces() -> None:
    """Skip a test that can have no other machine."""
    if subprocess.run([*PRIVATE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces may be made here")
