"""The process as a whole: signals, standard streams, file limit, thread switching."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from kuwa_min import log

from . import supervision

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")
# A backend that computes in Python keeps the interpreter's lock for a switch interval before
# another thread gets it. A short one lets tokens leave at once, but every waiting thread wakes that
# often; so it grows with the number of chats, up to Python's own.
SWITCH_INTERVAL = 0.0005  # seconds, for up to CHATS_PER_INTERVAL chats
CHATS_PER_INTERVAL = 8
MAX_SWITCH_INTERVAL = 0.005  # seconds: Python's own
M_ARENA_MAX = -8  # of glibc's <malloc.h>
SLICE = 1.0  # seconds that the main thread sleeps at once
OTHERS_WRITE = 0o022  # bits of a mode
SAME_SIGNAL = 0.2  # seconds within which a terminal and a wrapper may both pass one Ctrl-C on
HURRY = 3.0  # seconds from the second signal to the end of the process, whatever still runs
OPEN_FILES = 65536  # the limit asked for; a running chat takes four

_kept_open: list[IO[str]] = []  # what the timer of _end_within writes to


class Stopped(BaseException):
    """Unwind the main thread: a signal came while it was `eager`, or a second one."""


class Stop:
    """A request to stop: a signal or `request` sets it; while `eager`, it also interrupts.

    A second signal interrupts always, and leaves HURRY seconds for what is under way; a third one
    ends the process at once. In both cases of force the exit code is 1. `failure`: why a thread
    asked for the end, see supervision.end_process; "" for all other reasons.

    Python runs a signal handler on the main thread between two bytecodes, possibly inside `wait`.
    So the handler takes no lock, as Event.set would: it sets a flag and releases `_wakeup`, which
    never blocks. A signal that arrives after Python's last check and before the system call wakes
    no thread; that is why `wait` sleeps in slices and reads the flag after each.
    """

    def __init__(self) -> None:
        self.requested, self.failure = False, ""
        self.eager, self._handled = True, False
        self._asked, self._asked_at = 0, float("-inf")  # times, and time.monotonic() of the last
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
        supervision.on_end_process(self._fail)
        try:
            yield self
        finally:
            self._handled = False
            supervision.on_end_process(None)
            for number, handler in former.items():
                signal.signal(number, self._afterwards(handler))

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
        main = threading.main_thread().ident
        if self._handled and self.eager and main is not None and hasattr(signal, "pthread_kill"):
            self.requested = True
            signal.pthread_kill(main, signal.SIGTERM)
        else:
            self._asked = max(1, self._asked)
            self._set()

    def _fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self.request()

    def _receive(self, number: int, _: FrameType | None) -> None:
        is_first = self._asked == 0
        if not is_first and time.monotonic() - self._asked_at < SAME_SIGNAL:
            return
        if self._asked > 1:
            os._exit(1)
        if not is_first:
            _end_within(HURRY)
        self._asked += 1
        self._set()
        if self.eager or not is_first:
            raise Stopped

    def _afterwards(self, handler: Any) -> Any:
        """Return what handles a signal while Python ends: KeyboardInterrupt shows a traceback."""
        is_pythons = handler is signal.default_int_handler
        return signal.SIG_DFL if self.requested and is_pythons else handler

    def _set(self) -> None:
        self.requested, self._asked_at = True, time.monotonic()
        with contextlib.suppress(RuntimeError):  # released by an earlier request
            self._wakeup.release()


def _end_within(seconds: float) -> None:
    """End the process after a while, with exit code 1, unless it has ended by then.

    The timer needs neither the main thread nor the interpreter's lock.
    """
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        nowhere = open(os.devnull, "w")  # noqa: SIM115, PTH123 - until the end
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        _kept_open.append(nowhere)


_named: list[str] = []  # at most one


def name_program(name: str) -> None:
    """Set what program_name() returns, where sys.argv does not say it."""
    _named[:] = [name]


def program_name() -> str:
    """Return the name of the file that was started, without its folder."""
    return _named[0] if _named else os.path.basename(sys.argv[0])  # noqa: PTH119 - pathlib would cost a millisecond


def prepare(log_level: str) -> None:
    """Set up memory, logging, thread switching, the file limit and the umask, before serving."""
    _share_malloc_arena()
    log.configure(log_level)
    restrict_umask()
    threading.excepthook = supervision.log_uncaught
    tune_switch_interval(1)
    _raise_file_limit()


def _share_malloc_arena() -> None:
    """Let all threads allocate from one arena of glibc's malloc; before the first thread starts.

    By default each thread gets an arena of its own, up to eight a processor, and each keeps what
    was freed in it: a thread per connection would double the memory of a process in minutes.
    Python's lock lets one thread allocate at a time anyway. MALLOC_ARENA_MAX has precedence.
    """
    if sys.platform != "linux" or "MALLOC_ARENA_MAX" in os.environ:
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def restrict_umask() -> None:
    """Let no other user write to the files that this process makes, whatever umask it was given.

    Libraries write bytecode and caches of code, which the next start runs.
    """
    os.umask(os.umask(OTHERS_WRITE) | OTHERS_WRITE)


def tune_switch_interval(chats: int) -> None:
    """Set Python's switch interval for this number of chats at once."""
    interval = SWITCH_INTERVAL * max(1, chats / CHATS_PER_INTERVAL)
    sys.setswitchinterval(min(interval, MAX_SWITCH_INTERVAL))


def open_file_limit() -> int | None:
    """Return how many files and sockets may be open at once; None without such a limit."""
    if os.name != "posix":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


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
