"""Build the real files once; every test here runs them as a user would."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.load.machines import HeavyFile, build, need
from tests.support.programs import ROOT

MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def dist(make_once: MakeOnce) -> Path:
    """Build kuwa-debug.pyz and kuwa-dummy.pyz; give their folder."""

    def build(folder: Path) -> None:
        command = [sys.executable, "build.py", "debug", "dummy", "--output", str(folder / "dist")]
        subprocess.run(command, cwd=ROOT, check=True)

    return make_once("a folder with späces", build) / "dist"


@pytest.fixture(scope="session")
def rich_dist(make_once: MakeOnce) -> Path:
    """Build the two with the chat page's libraries; give their folder; skips without npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm is missing: make npm")

    def build(folder: Path) -> None:
        command = [sys.executable, "build.py", "debug", "dummy", "--page_libraries", "on"]
        subprocess.run([*command, "--output", str(folder / "dist")], cwd=ROOT, check=True)

    return make_once("with the page's libraries", build) / "dist"


@pytest.fixture(scope="session")
def built(dist: Path) -> Callable[[str], Path]:
    """Give the path of a backend's file."""
    return lambda backend: dist / f"kuwa-{backend}.pyz"


@pytest.fixture(scope="session")
def heavy(make_once: MakeOnce) -> Callable[[str], HeavyFile]:
    """Give a backend's file with its real libraries, built once; skips where they are not."""

    @functools.cache
    def make(backend: str) -> HeavyFile:
        need(backend)
        return HeavyFile(backend, make_once(backend, lambda folder: build(backend, folder)))

    return make
