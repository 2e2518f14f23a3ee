"""The process as a whole: signals, standard streams, file limit, thread switching."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import log

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")
# A backend that computes in Python keeps the interpreter's lock for a switch interval before
# another thread gets it. A short one lets tokens leave at once, but every waiting thread wakes that
# often; so it grows with the number of chats, up to Python's own.
SWITCH_INTERVAL = 0.0005  # seconds, for up to CHATS_PER_INTERVAL chats
CHATS_PER_INTERVAL = 8
MAX_SWITCH_INTERVAL = 0.005  # seconds: Python's own
SLICE = 1.0  # seconds that the main thread sleeps at once
OTHERS_WRITE = 0o022  # bits of a mode
OPEN_FILES = 65536  # the limit asked for; a running chat takes four


class Stopped(BaseException):
    """Unwind the main thread: a signal asked the process to stop while it was `eager`."""


class Stop:
    """A request to stop: a signal or `request` sets it; while `eager`, it also interrupts.

    Python runs a signal handler on the main thread between two bytecodes, possibly inside `wait`.
    So the handler takes no lock, as Event.set would: it sets a flag and releases `_wakeup`, which
    never blocks. A signal that arrives after Python's last check and before the system call wakes
    no thread; that is why `wait` sleeps in slices and reads the flag after each.
    """

    def __init__(self) -> None:
        self.requested = False
        self.eager, self._handled = True, False
        self._wakeup = threading.Lock()  # held until the first request
        self._wakeup.acquire()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[Stop]:
        """Handle SIGTERM, SIGINT and SIGHUP where they exist; only on the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        hup = getattr(signal, "SIGHUP", None)
        if hup is not None and signal.getsignal(hup) is signal.SIG_IGN:
            numbers.remove(hup)  # nohup asked for that
        former = {number: signal.signal(number, self._receive) for number in numbers}
        self._handled = True
        try:
            yield self
        finally:
            self._handled = False
            for number, handler in former.items():
                signal.signal(number, handler)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait on the main thread for a request, at most this long; return whether it came."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self.requested:
            left = SLICE if deadline is None else min(SLICE, deadline - time.monotonic())
            self._wakeup.acquire(timeout=max(0.0, left))
            if deadline is not None and time.monotonic() >= deadline:
                break
        return self.requested

    def request(self) -> None:
        """Ask the process to stop as SIGTERM does; from any thread."""
        self._set()
        main = threading.main_thread().ident
        if self._handled and self.eager and main is not None and hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main, signal.SIGTERM)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._set()
        if self.eager:
            raise Stopped

    def _set(self) -> None:
        self.requested = True
        with contextlib.suppress(RuntimeError):  # released by an earlier request
            self._wakeup.release()


def program_name() -> str:
    """Return the name of the file that was started, without its folder."""
    return os.path.basename(sys.argv[0])  # noqa: PTH119 - pathlib would cost a millisecond


def prepare(log_level: str) -> None:
    """Set up logging, thread switching, the file limit and the umask, before serving."""
    log.configure(log_level)
    restrict_umask()
    tune_switch_interval(1)
    _raise_file_limit()


def restrict_umask() -> None:
    """Let no other user write to the files that this process makes, whatever umask it was given.

    Libraries write bytecode and caches of code, which the next start runs.
    """
    os.umask(os.umask(OTHERS_WRITE) | OTHERS_WRITE)


def tune_switch_interval(chats: int) -> None:
    """Set Python's switch interval for this number of chats at once."""
    interval = SWITCH_INTERVAL * max(1, chats / CHATS_PER_INTERVAL)
    sys.setswitchinterval(min(interval, MAX_SWITCH_INTERVAL))


def _raise_file_limit() -> None:
    """Raise the limit of open files towards OPEN_FILES, as far as the system allows."""
    if os.name != "posix":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_standard_streams() -> None:
    """Open /dev/null for each closed one of fd 0 to 2: a client's socket must not become it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - for the whole life
