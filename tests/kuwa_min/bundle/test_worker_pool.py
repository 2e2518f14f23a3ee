"""The worker pool: every share is done, progress grows, a worker that dies is an error."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from kuwa_min.bundle.worker_pool import BYTES_PER_WORKER, WorkerPool, worker_count
from kuwa_min.errors import StartError
from tests.support.forks import forked_children_end

SHARES = [[3, 5], [7], []]


def test_every_task_is_done_once(tmp_path: Path) -> None:
    """Each share in a process of its own, in its order."""
    seen: list[tuple[int, int]] = []

    def do(task: int) -> int:
        (tmp_path / f"{task}-{os.getpid()}").touch()
        return task

    WorkerPool(do).run(SHARES, 15, lambda *told: seen.append(told))
    names = [path.name.split("-") for path in tmp_path.iterdir()]
    assert sorted(int(task) for task, _ in names) == [3, 5, 7]
    assert len({process for _, process in names}) == 2
    assert str(os.getpid()) not in {process for _, process in names}
    assert seen[-1] == (15, 15)


def fail(error: Exception) -> Exception:
    """Raise this in a worker; return what the caller gets."""

    def do(task: int) -> int:
        if task == 5:
            raise error
        return task

    with pytest.raises(type(error)) as caught:
        WorkerPool(do).run(SHARES, 15, lambda *_: None)
    return caught.value


def test_an_error_of_a_worker_reaches_the_caller() -> None:
    """With its number and its message."""
    full = fail(OSError(28, "No space left on device"))
    assert isinstance(full, OSError)
    assert (full.errno, full.strerror) == (28, "No space left on device")
    assert str(fail(StartError("the file is damaged"))) == "the file is damaged"


def test_a_killed_worker_is_an_error() -> None:
    """As the kernel does when memory runs out; no worker is left."""

    def do(task: int) -> int:
        if task == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    killed = pytest.raises(StartError, match="was killed: look whether the machine has memory")
    with forked_children_end() as workers, killed:
        WorkerPool(do).run(SHARES, 15, lambda *_: None)
    assert len(workers) == len(SHARES)


@pytest.mark.parametrize(
    ("total", "processors", "expected"),
    [
        (0, 4, 1),
        (BYTES_PER_WORKER, 4, 1),
        (3 * BYTES_PER_WORKER, 4, 3),
        (10**12, 4, 4),
        (10**12, 99, 8),
    ],
)
def test_the_number_of_workers(
    monkeypatch: pytest.MonkeyPatch, total: int, processors: int, expected: int
) -> None:
    """One for little work; else as many as there are processors, up to eight."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert worker_count(total) == expected
