"""What all tests share: workers that build a large file once, and children that signals end."""

from __future__ import annotations

import fcntl
import gc
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kuwa_min.log import redaction

# Files whose tests share what takes long to make or much memory: a worker runs all of one, and
# these come first. The other files are handed out one function at a time, with all its parameters.
WHOLE_FILES = (
    "tests/backends/chatgpt/test_real_server.py",
    "tests/backends/test_benchmark.py",
    "tests/backends/test_real_models.py",
    "tests/e2e/test_chatgpt_engine.py",
    "tests/e2e/test_cloud.py",
    "tests/e2e/test_heavy.py",
    "tests/e2e/test_huge.py",
    "tests/e2e/test_load_4.py",
    "tests/e2e/test_load_8.py",
    "tests/e2e/page/test_chats.py",
    "tests/e2e/page/test_page.py",
    "tests/e2e/page/test_store.py",
    "tests/e2e/page/test_transfer.py",
)
# What a module says whose tests are all slow.
SLOW_MODULE = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)
MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Say what a worker runs as a whole; what has the most tests is handed out first."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return path if path in WHOLE_FILES else nodeid.partition("[")[0]

        def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
            """Forget what is done: xdist counts all that a worker has ever been given."""
            super().mark_test_complete(node, item_index, duration)
            given = self.assigned_work[node]
            scope = self._split_scope(self.registered_collections[node][item_index])
            if all(given[scope].values()):
                del given[scope]

    return Scheduler(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Have a worker more than processors: a fifth of the time they wait for programs and limits."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no module only to leave all its tests out: with torch that takes seconds."""
    if config.option.markexpr != "not slow" or not collection_path.match("test_*.py"):
        return None
    return True if SLOW_MODULE.search(collection_path.read_text()) else None


def pytest_collection_finish() -> None:
    """Let no garbage collection traverse what was imported: with torch that takes a second."""
    gc.freeze()


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Undo what a test changed in this process's environment: its worker runs others after it."""
    before = os.environ.copy()
    yield
    if os.environ.copy() != before:  # seldom, and to set all costs more than many a test
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def secrets() -> Iterator[None]:
    """Forget the secrets that a test made known: no other test's texts are masked by them."""
    before = redaction._secrets.copy()
    yield
    redaction._secrets.clear()
    redaction._secrets.update(before)


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
