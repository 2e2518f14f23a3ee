"""A pool of forked processes: Python's threads are slower at writing many small files."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Generic, NoReturn, TypeVar

from kuwa_min.errors import KuwaError, StartError

BYTES_PER_WORKER = 32_000_000  # for less, starting one takes longer than it saves
MAX_WORKERS = 8
POLL = 0.02  # seconds between two checks of the workers
COUNTER = 8  # bytes of a worker's counter of bytes done
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

ReportBytes = Callable[[int, int], None]  # bytes done, bytes in all
T = TypeVar("T")


def worker_count(total: int) -> int:
    """Return the number of workers for a task of `total` bytes on this machine; 1: no pool."""
    if not hasattr(os, "fork"):
        return 1
    with contextlib.suppress(AttributeError):
        processors = len(os.sched_getaffinity(0))
        return max(1, min(MAX_WORKERS, processors, total // BYTES_PER_WORKER))
    return 1


class WorkerPool(Generic[T]):
    """Run tasks in forked processes; `do` runs one there and returns its bytes."""

    def __init__(self, do: Callable[[T], int]) -> None:
        self._do = do
        self._parent = os.getpid()
        self._running: set[int] = set()  # process ids

    def run(self, shares: Sequence[Sequence[T]], total: int, report: ReportBytes) -> None:
        """Run each share in a process; raises the StartError or OSError of the first that failed.

        The other workers are killed then. report: called from this process, in `total` bytes.
        """
        counters = mmap.mmap(-1, COUNTER * len(shares))
        receive, send = os.pipe()
        try:
            for number, share in enumerate(shares):
                # until the child has its own handlers and the parent its process id
                former = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
                child = os.fork()
                if child == 0:
                    self._work(share, number, counters, send)
                self._running.add(child)
                signal.pthread_sigmask(signal.SIG_SETMASK, former)
            if not self._wait(counters, total, report):
                os.set_blocking(receive, False)
                _raise_first(receive)
        finally:
            self._kill()
            os.close(receive)
            os.close(send)
            counters.close()

    def _work(self, share: Sequence[T], number: int, counters: mmap.mmap, send: int) -> NoReturn:
        """Run a share in the child: count the bytes done, send an error, exit with 0 or 1."""
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent kills its workers
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            done = 0
            for task in share:
                if os.getppid() != self._parent:
                    break
                done += self._do(task)
                counters[number * COUNTER : (number + 1) * COUNTER] = done.to_bytes(COUNTER, "big")
            else:
                code = 0
        except OSError as error:
            os.write(send, f"{error.errno or 0} {error.strerror}\n".encode())
        except KuwaError as error:
            os.write(send, f"- {error}\n".encode())
        finally:
            os._exit(code)

    def _wait(self, counters: mmap.mmap, total: int, report: ReportBytes) -> bool:
        """Wait for the workers; return whether all of them succeeded."""
        while self._running:
            ended = [os.waitpid(child, os.WNOHANG) for child in self._running]
            self._running -= {child for child, _ in ended}
            if any(status for _, status in ended):
                return False
            time.sleep(POLL if self._running else 0)
            report(_sum(counters), total)
        return True

    def _kill(self) -> None:
        for child in self._running:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        self._running.clear()


def _sum(counters: mmap.mmap) -> int:
    raw = counters[:]
    return sum(int.from_bytes(raw[at : at + COUNTER], "big") for at in range(0, len(raw), COUNTER))


def _raise_first(receive: int) -> NoReturn:
    """Raise the first error that a worker sent; one that was killed sent none."""
    try:
        line = os.read(receive, 4096).decode().partition("\n")[0]
    except BlockingIOError:
        raise StartError(
            "a process that was unpacking was killed: look whether the machine has memory enough"
        ) from None
    number, _, message = line.partition(" ")
    raise StartError(message) if number == "-" else OSError(int(number), message)
