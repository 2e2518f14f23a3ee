"""What all tests share: workers that build a large file once, and children that signals end."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

MakeOnce = Callable[[str, Callable[[Path], object]], Path]


def pytest_collection_finish() -> None:
    """Let no garbage collection traverse what was imported: with torch that takes a second."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def signals_end_children() -> None:
    """Start every child with signals that end it, also below nohup or in the background of a shell.

    A child inherits that a signal is ignored, but not a handler. This process goes on ignoring it.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Give what makes a folder once for all workers, from its name and what fills it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # which the workers of this session share

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, whole = root / name, root / f"{name}.whole"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                whole.touch()
        return folder

    return make
