"""Threads that do not die in silence, and that never hang the thread that starts them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from itertools import count

from kuwa_min.errors import describe

logger = logging.getLogger(__name__)

START_TIMEOUT = 10.0  # seconds that a new thread has to begin, also where many others compute
FIRST_DELAY, LONGEST_DELAY = 0.1, 10.0  # seconds between an error and the restart; it doubles
STEADY = 60.0  # seconds without an error after which earlier ones are forgotten
ATTEMPTS = 8  # errors in a row, within 13 s at least, after which an essential thread gives up

_failures = count(1)  # one step for each error; see failures()
_last_failure = 0
_end_process: Callable[[str], None] | None = None


class Thread(threading.Thread):
    """A daemon thread whose start() fails instead of hanging.

    Without memory, a new thread can end before it has told threading.Thread.start() that it began,
    which then waits for ever. Here start() raises RuntimeError, as it does where the system gives
    no thread, and a thread that begins after that does nothing.
    """

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._claim = threading.Lock()  # acquired once: by the thread, or by start() on timeout
        self._started = _Began(self._claim)

    def run(self) -> None:
        """Do the work once; an error is logged and counted."""
        if not self._claim.acquire(blocking=False):
            return
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - the last one who can tell of it
            report(self.name, error)


class _Began(threading.Event):
    """The event for which threading.Thread.start() waits, for START_TIMEOUT at most."""

    def __init__(self, claim: threading.Lock) -> None:
        super().__init__()
        self._claim = claim

    def wait(self, timeout: float | None = None) -> bool:
        """Wait; raises RuntimeError if the thread has not begun, and never will."""
        if super().wait(START_TIMEOUT if timeout is None else timeout):
            return True
        if timeout is None and self._claim.acquire(blocking=False):
            raise RuntimeError("a new thread did not begin: is there memory left?")
        return self.is_set()


class SupervisedThread(Thread):
    """A long-lived thread: its work is called again after an unexpected error, with back-off.

    The work returns when it is no longer needed, also if it is called after that moment.

    on_failure: called on this thread after each error, before the restart. essential: the process
    ends, with a line and exit code 1, once the work fails ATTEMPTS times in a row.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        *,
        on_failure: Callable[[], object] = lambda: None,
        essential: bool = False,
    ) -> None:
        super().__init__(name, self._supervise)
        self._supervised, self._on_failure, self._essential = work, on_failure, essential
        self._pauses_end = threading.Event()

    def end_pauses(self) -> None:
        """Restart without delay from now on: the work is about to be told to return."""
        self._pauses_end.set()

    def _supervise(self) -> None:
        attempt = 0
        while True:
            began = time.monotonic()
            try:
                self._supervised()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the work goes on
                attempt = 1 if time.monotonic() - began > STEADY else attempt + 1
                report(self.name, error)
                with contextlib.suppress(Exception):
                    self._on_failure()
                if self._essential and attempt >= ATTEMPTS:
                    return end_process(f"the thread {self.name} failed {attempt} times in a row")
            else:
                return None
            self._pauses_end.wait(min(FIRST_DELAY * 2 ** (attempt - 1), LONGEST_DELAY))


def spawn(name: str, work: Callable[[], object]) -> Thread:
    """Start a short-lived thread; raises RuntimeError if the system gives none, or no memory."""
    try:
        thread = Thread(name, work)
        thread.start()
    except MemoryError:
        raise RuntimeError("there is no memory for a thread") from None
    return thread


def report(name: str, error: BaseException) -> None:
    """Log an error that a thread did not expect, in one line, and count it; does not raise."""
    global _last_failure
    _last_failure = next(_failures)
    with contextlib.suppress(Exception):  # without memory, there may be no line
        logger.error("the thread %s failed: %s", name, describe(error))


def failures() -> int:
    """Return the number of errors that were reported since the process began."""
    return _last_failure


def on_end_process(handler: Callable[[str], None] | None) -> None:
    """Say what end_process() calls, with its reason, on any thread."""
    global _end_process
    _end_process = handler


def end_process(reason: str) -> None:
    """Ask the process to end with this reason and exit code 1; from any thread, never waits."""
    logger.critical("%s; the process ends", reason)
    if _end_process is not None:
        _end_process(reason)


def log_uncaught(args: threading.ExceptHookArgs) -> None:
    """Stand in for threading.excepthook: a line of the log in place of a traceback."""
    if args.exc_value is not None and args.exc_type is not SystemExit:
        report(args.thread.name if args.thread else "?", args.exc_value)
