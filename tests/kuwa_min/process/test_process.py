"""The process: signals that stop it, streams that are missing, limits that it raises."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from kuwa_min import process
from kuwa_min.process import OPEN_FILES, SWITCH_INTERVAL, Stop, Stopped, supervision
from tests.support.programs import ROOT, TIMEOUT

TraceFunction = Callable[[FrameType, str, Any], Any]
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore every signal's handler after the test."""
    former = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


def run(program: str, *shell: str) -> subprocess.CompletedProcess[str]:
    """Run a small program, below a shell command if there is one."""
    return subprocess.run(
        [*shell, sys.executable, "-Werror", "-c", program],
        cwd=ROOT,
        input="",
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_interrupts_while_eager(number: signal.Signals) -> None:
    """Loading a model ends at once, and no except of a library holds it up."""
    with pytest.raises(Stopped), Stop().on_signals() as stop:
        assert stop.eager
        signal.raise_signal(number)
    assert stop.requested
    assert not issubclass(Stopped, Exception)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_only_sets_the_flag_while_serving(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running answers are not torn; the same signal may come twice, from a wrapper."""
    monkeypatch.setattr(process, "SAME_SIGNAL", 3600.0)
    with Stop().on_signals() as stop:
        stop.eager = False
        assert not stop.requested
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert stop.requested


@pytest.mark.parametrize("first", ["signal", "request"])
def test_a_second_signal_interrupts_and_a_third_ends_the_process(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While serving, too; what still runs then has a few seconds."""
    monkeypatch.setattr(process, "SAME_SIGNAL", 0.0)
    left, codes = list[float](), list[int]()
    monkeypatch.setattr(process, "_end_within", left.append)
    monkeypatch.setattr("os._exit", codes.append)
    with Stop().on_signals() as stop:
        stop.eager = False
        stop.request() if first == "request" else signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        assert not left
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)
        assert left == [process.HURRY]
        assert not codes
        with contextlib.suppress(Stopped):
            signal.raise_signal(signal.SIGINT)
        assert codes == [1]


def test_a_request_while_eager_is_one_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is passed on as a signal, which must not count as the second."""
    left = list[float]()
    monkeypatch.setattr(process, "_end_within", left.append)
    with pytest.raises(Stopped), Stop().on_signals() as stop:
        stop.request()
        stop.wait(20)
    assert not left


def test_what_hangs_after_a_second_signal_is_ended() -> None:
    """Without the main thread and without the interpreter's lock."""
    program = (
        "import ctypes; from kuwa_min import process\n"
        "process._end_within(0.1)\n"
        "ctypes.PyDLL(None).sleep(20)  # keeps the lock"
    )
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_thread_ends_the_process_with_its_reason() -> None:
    """The first reason counts."""
    with Stop().on_signals() as stop:
        stop.eager = False
        supervision.end_process("the model is lost")
        supervision.end_process("the thread httpd failed")
        assert stop.wait(20)
        assert stop.failure == "the model is lost"


def test_a_request_stops_as_a_signal_does() -> None:
    """From another thread: while eager it interrupts even a sleep, later it sets the flag."""
    with pytest.raises(Stopped), Stop().on_signals() as stop:
        threading.Timer(0.01, stop.request).start()
        time.sleep(20)
    with Stop().on_signals() as stop:
        stop.eager = False
        threading.Timer(0.01, stop.request).start()
        assert stop.wait(20)


def test_a_request_outside_the_main_thread_kills_no_process() -> None:
    """There are no handlers then; the flag is set."""
    stops: list[Stop] = []

    def elsewhere() -> None:
        with Stop().on_signals() as stop:
            stop.request()
            stops.append(stop)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(20)
    assert stops[0].wait(0)


def test_waiting_ends_with_a_request_or_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slices long, and not at all."""
    monkeypatch.setattr(process, "SLICE", 0.01)
    stop = Stop()
    assert not stop.wait(0)
    assert not stop.wait(0.05)
    threading.Timer(0.05, stop.request).start()
    assert stop.wait()
    assert stop.wait(0)


def test_a_flag_that_woke_no_thread_is_seen_after_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal between Python's last check and the system call sets the flag, and no more."""
    monkeypatch.setattr(process, "SLICE", 0.01)
    stop = Stop()
    threading.Timer(0.05, setattr, (stop, "requested", True)).start()
    assert stop.wait(20)


def test_a_signal_at_any_line_of_the_wait_is_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler runs on the waiting thread itself: a lock that the wait holds would block it."""
    clock = itertools.count(step=0.02)  # so that each wait takes the same lines
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    for line in itertools.count(1):
        with Stop().on_signals() as stop, signal_at(line) as sent:
            stop.eager = False
            sent |= {"ended": stop.wait(0.05)}
        if "line" not in sent:
            break
        assert sent["ended"]
    assert line > 5


@contextmanager
def signal_at(line: int) -> Iterator[dict[str, object]]:
    """Send SIGTERM before the line that this thread runs as number `line` from now on."""
    sent: dict[str, object] = {}
    lines = itertools.count(1)

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction:
        if event == "line" and frame.f_code.co_name == "wait" and next(lines) == line:
            sent["line"] = frame.f_lineno
            signal.raise_signal(signal.SIGTERM)
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        yield sent
    finally:
        sys.settrace(former)


def test_former_handlers_come_back() -> None:
    """Also when the block ends by a signal; then without Python's, which shows a traceback."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is another
    before = [signal.getsignal(number) for number in NUMBERS]
    with Stop().on_signals():
        assert before != [signal.getsignal(number) for number in NUMBERS]
    with pytest.raises(Stopped), Stop().on_signals():
        signal.raise_signal(signal.SIGTERM)
    before[NUMBERS.index(signal.SIGINT)] = signal.SIG_DFL
    assert before == [signal.getsignal(number) for number in NUMBERS]


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    """Python takes handlers on the main thread only; a test or a notebook may run us elsewhere."""
    before = [signal.getsignal(number) for number in NUMBERS]
    seen = []

    def elsewhere() -> None:
        with Stop().on_signals() as stop:
            seen.append((stop.eager, [signal.getsignal(number) for number in NUMBERS]))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(True, before)]


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    """Users start executors with nohup so that they outlive the terminal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Stop().on_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.requested
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_prepare_raises_the_limit_of_open_files_and_switches_threads_often() -> None:
    """As far as the system allows, and never down; the log is set up, too."""
    done = run(
        "import logging, resource, sys\n"
        "from kuwa_min import process\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "process.prepare('WARNING')\n"
        "process.prepare('WARNING')\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE), hard, sys.getswitchinterval())\n"
        "print(logging.getLogger().getEffectiveLevel())\n"
    )
    assert done.stderr == ""
    soft, after, before, interval, level = done.stdout.split()
    assert after == before
    assert int(soft) == (OPEN_FILES if before == "-1" else min(int(before), OPEN_FILES))
    assert float(interval) == pytest.approx(SWITCH_INTERVAL)
    assert int(level) == 30


def test_the_limit_of_open_files_is_the_systems() -> None:
    """What counts is the soft one; None if there is none."""
    done = run(
        "import resource\n"
        "from kuwa_min import process\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "print(process.open_file_limit())\n"
        "resource.getrlimit = lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY)\n"
        "print(process.open_file_limit())\n"
    )
    assert (done.stdout, done.stderr) == ("64\nNone\n", "")


def test_prepare_never_lowers_the_limit_of_open_files() -> None:
    """The caller may have asked for more than we need."""
    done = run(
        "import resource\n"
        "from kuwa_min import process\n"
        "process.OPEN_FILES = 64\n"
        "before = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "process.prepare('INFO')\n"
        "print(before == resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_missing_standard_stream_becomes_dev_null(closed: str, tmp_path: Path) -> None:
    """The next socket gets a number above 2, and printing works."""
    result = tmp_path / "result"
    program = (
        "import os, socket, sys\n"
        "from kuwa_min import process\n"
        "process.open_standard_streams()\n"
        "null = os.stat(os.devnull).st_rdev\n"
        "kinds = [os.fstat(number).st_rdev == null for number in range(3)]\n"
        "number = socket.socket().detach()\n"
        "print('x', flush=True)\n"
        "print('x', file=sys.stderr, flush=True)\n"
        f"open({str(result)!r}, 'w').write(f'{{kinds}} {{number > 2}}')\n"
    )
    run(program, "sh", "-c", f'exec "$@" {closed}', "sh")
    expected = ["<&-" in closed, " >&-" in f" {closed}", "2>&-" in closed]
    assert result.read_text(encoding="utf-8") == f"{expected} True"


def test_present_streams_stay_as_they_are() -> None:
    """Nothing is replaced without need."""
    program = (
        "import sys\n"
        "from kuwa_min import process\n"
        "streams = sys.stdout, sys.stderr\n"
        "process.open_standard_streams()\n"
        "print(streams == (sys.stdout, sys.stderr))\n"
    )
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


MALLOC_ARENAS = """
import ctypes, os, tempfile, threading
from kuwa_min import process
process.prepare("ERROR")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fdopen.restype = ctypes.c_void_p, ctypes.c_void_p
libc.fdopen.argtypes = ctypes.c_int, ctypes.c_char_p
libc.malloc_info.argtypes = ctypes.c_int, ctypes.c_void_p
libc.fclose.argtypes = (ctypes.c_void_p,)
barrier = threading.Barrier(9)
def allocate():
    libc.malloc(1000)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
barrier.wait()
with tempfile.TemporaryFile() as file:
    stream = libc.fdopen(os.dup(file.fileno()), b"w")
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    file.seek(0)
    print(file.read().count(b"<heap nr="))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize(("variable", "fewest", "most"), [((), 1, 1), (("4",), 2, 4)])
def test_threads_share_an_arena_of_malloc_unless_the_operator_says_otherwise(
    variable: tuple[str, ...], fewest: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count the arenas that eight threads allocated from, as malloc_info() lists them."""
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    for value in variable:
        monkeypatch.setenv("MALLOC_ARENA_MAX", value)
    done = run(MALLOC_ARENAS)
    assert fewest <= int(done.stdout) <= most, done.stderr
