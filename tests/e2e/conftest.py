"""Build the real files once; every test here runs them as a user would."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from machines import HeavyFile, need
from programs import ROOT


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build kuwa-debug.pyz and kuwa-dummy.pyz; give their folder."""
    folder = tmp_path_factory.mktemp("a folder with späces") / "dist"
    command = [sys.executable, "build.py", "debug", "dummy", "--output", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="session")
def built(dist: Path) -> Callable[[str], Path]:
    """Give the path of a backend's file."""
    return lambda backend: dist / f"kuwa-{backend}.pyz"


@pytest.fixture(scope="session")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HeavyFile]:
    """Give a backend's file with its real libraries, built once; skips where they are not."""

    @functools.cache
    def make(backend: str) -> HeavyFile:
        need(backend)
        return HeavyFile(backend, tmp_path_factory.mktemp(backend))

    return make
