"""Threads under injected errors: what is logged, what goes on, what ends the process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from kuwa_min.process import supervision
from kuwa_min.process.supervision import SupervisedThread, failures, spawn
from tests.support.programs import until

TIMEOUT = 30.0  # seconds until a test gives up


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Restart at once, and note what would end the process."""
    reasons: list[str] = []
    monkeypatch.setattr(supervision, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(supervision, "_end_process", reasons.append)
    yield reasons


def failing(times: int, error: BaseException, then: Callable[[], object]) -> Callable[[], None]:
    """Return work whose first `times` calls raise `error`."""
    left = iter(range(times))

    def work() -> None:
        if next(left, None) is not None:
            raise error
        then()

    return work


@pytest.mark.parametrize("error", [ValueError("secret"), MemoryError(), SystemExit(3)])
def test_work_goes_on_after_an_error_with_a_line_and_a_count(
    error: BaseException, caplog: pytest.LogCaptureFixture, ended: list[str]
) -> None:
    """The line names type and place, and quotes nothing."""
    before, told, done = failures(), list[int](), threading.Event()
    work = failing(2, error, done.set)
    thread = SupervisedThread("one", work, on_failure=lambda: told.append(failures() - before))
    thread.start()
    thread.join(TIMEOUT)
    assert done.is_set()
    assert told == [1, 2]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert all(f"the thread one failed: {type(error).__name__} at" in line for line in lines)
    assert "secret" not in caplog.text
    assert not ended


def test_a_failing_on_failure_ends_nothing() -> None:
    """It is told again."""
    done = threading.Event()
    thread = SupervisedThread("one", failing(2, OSError(), done.set), on_failure=lambda: 1 / 0)
    thread.start()
    assert done.wait(TIMEOUT)


def test_an_essential_thread_that_cannot_go_on_ends_the_process(ended: list[str]) -> None:
    """With its reason; another kind of thread never gives up."""
    essential = SupervisedThread("httpd", failing(99, OSError(), print), essential=True)
    essential.start()
    essential.join(TIMEOUT)
    assert ended == [f"the thread httpd failed {supervision.ATTEMPTS} times in a row"]
    done = threading.Event()
    other = SupervisedThread("log", failing(supervision.ATTEMPTS + 1, OSError(), done.set))
    other.end_pauses()
    other.start()
    assert done.wait(TIMEOUT)
    assert len(ended) == 1


def test_errors_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch, ended: list[str]) -> None:
    """An error a day ends nothing."""
    monkeypatch.setattr(supervision, "STEADY", -1.0)
    done = threading.Event()
    thread = SupervisedThread("httpd", failing(30, OSError(), done.set), essential=True)
    thread.start()
    assert done.wait(TIMEOUT)
    assert not ended


def test_pauses_grow_and_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the process does not wait for a restart."""
    monkeypatch.setattr(supervision, "FIRST_DELAY", TIMEOUT * 10)
    monkeypatch.setattr(supervision, "LONGEST_DELAY", TIMEOUT * 10)
    thread = SupervisedThread("one", failing(1, OSError(), lambda: None))
    before = failures()
    thread.start()
    until(lambda: failures() > before)
    thread.end_pauses()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_a_spawned_thread_reports_its_error(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody sees a traceback."""
    before = failures()
    spawn("look-up", failing(1, ValueError(), print)).join(TIMEOUT)
    assert failures() == before + 1
    assert "the thread look-up failed: ValueError" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_thread_that_the_system_refuses_is_an_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one kind, whatever Python raises."""

    def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        spawn("one", print)


def test_a_thread_that_never_begins_does_not_hang_its_starter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As without memory; if it begins all the same, later, it does nothing."""
    monkeypatch.setattr(supervision, "START_TIMEOUT", 0.001)
    late: list[Callable[[], None]] = []
    done = threading.Event()
    thread = supervision.Thread("one", done.set)
    monkeypatch.setattr(thread, "_bootstrap", lambda: late.append(thread.run))
    with pytest.raises(RuntimeError, match="did not begin"):
        thread.start()
    until(lambda: late)
    late[0]()
    assert not done.is_set()


def test_an_uncaught_error_of_any_thread_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """A library's thread, too; sys.exit() in one says nothing."""
    thread = threading.Thread(name="theirs")
    error = KeyError("secret")
    supervision.log_uncaught(threading.ExceptHookArgs((KeyError, error, None, thread)))
    supervision.log_uncaught(threading.ExceptHookArgs((SystemExit, SystemExit(), None, thread)))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "the thread theirs failed: KeyError" in caplog.text
    assert "secret" not in caplog.text


def test_the_end_of_the_process_is_asked_for_with_a_line(
    ended: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing would end it, the line is all."""
    supervision.end_process("the model is lost")
    monkeypatch.setattr(supervision, "_end_process", None)
    supervision.end_process("the model is lost")
    assert ended == ["the model is lost"]
    assert caplog.text.count("the model is lost; the process ends") == 2
