"""Share work out to processes of their own: Python's threads are slower for many small files."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Generic, NoReturn, TypeVar

from .errors import KuwaError, StartError

WORTH_A_PROCESS = 32_000_000  # bytes: below that, starting one costs more than it saves
MOST_PROCESSES = 8
POLL = 0.02  # seconds between two looks at the workers
COUNTER = 8  # bytes
ENDS = (signal.SIGINT, signal.SIGTERM)


Report = Callable[[int, int], None]  # bytes done, bytes in all
T = TypeVar("T")


def processes(total: int) -> int:
    """Tell how many processes so many bytes are worth, on this machine."""
    if not hasattr(os, "fork"):
        return 1
    with contextlib.suppress(AttributeError):
        processors = len(os.sched_getaffinity(0))
        return max(1, min(MOST_PROCESSES, processors, total // WORTH_A_PROCESS))
    return 1


class Workers(Generic[T]):
    """Do tasks in processes of their own; `do` does one and returns its bytes."""

    def __init__(self, do: Callable[[T], int]) -> None:
        self.do = do
        self.parent = os.getpid()
        self.running: set[int] = set()

    def run(self, shares: Sequence[Sequence[T]], total: int, report: Report) -> None:
        """Do each share in a process; raises StartError or OSError, as the first worker met it."""
        counters = mmap.mmap(-1, COUNTER * len(shares))
        receive, send = os.pipe()
        try:
            for number, share in enumerate(shares):
                former = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # the parent ends us all
                child = os.fork()
                if child == 0:
                    self._work(share, number, counters, send)
                self.running.add(child)
                signal.pthread_sigmask(signal.SIG_SETMASK, former)
            if not self._wait(counters, total, report):
                os.set_blocking(receive, False)
                _raise_first(receive)
        finally:
            self._end()
            os.close(receive)
            os.close(send)
            counters.close()

    def _work(self, share: Sequence[T], number: int, counters: mmap.mmap, send: int) -> NoReturn:
        """Be a worker: do the share, count, tell what went wrong, and end."""
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
            done = 0
            for task in share:
                if os.getppid() != self.parent:
                    break
                done += self.do(task)
                counters[number * COUNTER : (number + 1) * COUNTER] = done.to_bytes(COUNTER, "big")
            else:
                code = 0
        except OSError as error:
            os.write(send, f"{error.errno or 0} {error.strerror}\n".encode())
        except KuwaError as error:
            os.write(send, f"- {error}\n".encode())
        finally:
            os._exit(code)

    def _wait(self, counters: mmap.mmap, total: int, report: Report) -> bool:
        """Wait for the workers; tell whether all of them did their share."""
        while self.running:
            ended = [os.waitpid(child, os.WNOHANG) for child in self.running]
            self.running -= {child for child, _ in ended}
            if any(status for _, status in ended):
                return False
            time.sleep(POLL if self.running else 0)
            report(_sum(counters), total)
        return True

    def _end(self) -> None:
        for child in self.running:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        self.running.clear()


def _sum(counters: mmap.mmap) -> int:
    raw = counters[:]
    return sum(int.from_bytes(raw[at : at + COUNTER], "big") for at in range(0, len(raw), COUNTER))


def _raise_first(receive: int) -> NoReturn:
    """Raise the first failure that a worker told; it may have been killed before it could."""
    try:
        line = os.read(receive, 4096).decode().partition("\n")[0]
    except BlockingIOError:
        raise StartError(
            "a process that was unpacking was killed: look whether the machine has memory enough"
        ) from None
    number, _, message = line.partition(" ")
    raise StartError(message) if number == "-" else OSError(int(number), message)
