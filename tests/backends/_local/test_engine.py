"""The engine: one thread computes one request after the other, and a failure stays with its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from backends._local.engine import Closed, Engine
from backends._local.request import Request
from backends._local.scheduler import Scheduler, SerialScheduler
from kuwa_min.chat.sentence import Sentence
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.errors import StartError

NOTE = Sentence("A note.", "附註。")
LONG = 20.0


def request(*, stop: tuple[str, ...] = (), seconds: float | None = None) -> Request:
    """Return a request whose prompt does not matter."""
    return Request([1], {}, stop=stop, timeout=seconds)


def started(scheduler: Scheduler) -> Engine:
    """Start an engine that has nothing to load."""
    engine = Engine(lambda: scheduler)
    engine.start()
    return engine


@contextmanager
def running(compute: Callable[[Request], None]) -> Iterator[Engine]:
    """Run an engine for a while."""
    engine = started(SerialScheduler(compute))
    try:
        yield engine
    finally:
        engine.close()


def read(one: Request) -> str:
    """Return the whole text of an answer."""
    text = ""
    while not one.drained:
        text += one.next_text(LONG)
    return text + "".join(one.side_notes)


def count(one: Request) -> None:
    """Emit the digits from 1 to 9 until it should stop."""
    for number in range(1, 10):
        if one.should_stop:
            return
        one.emit(str(number))


def test_requests_are_computed_in_their_order() -> None:
    """One at a time."""
    order: list[Request] = []

    def compute(one: Request) -> None:
        order.append(one)
        count(one)

    requests = [request() for _ in range(5)]
    with running(compute) as engine:
        for one in requests:
            engine.submit(one)
        assert [read(one) for one in requests] == ["123456789"] * 5
    assert order == requests


def test_a_failure_belongs_to_its_request() -> None:
    """next_text() raises it, after the text; the next request is computed."""
    failing = [True, False]

    def compute(one: Request) -> None:
        one.emit("a")
        if failing.pop(0):
            raise LookupError("the middle")

    first, second = request(), request()
    with running(compute) as engine:
        engine.submit(first)
        engine.submit(second)
        assert first.next_text(LONG) == "a"
        with pytest.raises(LookupError):
            first.next_text(LONG)
        assert first.drained
        assert read(second) == "a"


def test_a_request_that_is_cancelled_in_the_queue_is_not_computed() -> None:
    """Its text is not wanted."""
    computed: list[Request] = []
    go = threading.Event()

    def compute(one: Request) -> None:
        computed.append(one)
        assert go.wait(LONG)

    first, second, third = request(), request(), request()
    with running(compute) as engine:
        for one in (first, second, third):
            engine.submit(one)
        second.cancel()
        go.set()
        assert read(second) == read(third) == ""
    assert computed == [first, third]


def test_a_timeout_of_next_text_is_no_end() -> None:
    """The model is still at work."""
    one = request()
    assert one.next_text(0.001) == ""
    assert not one.drained


@pytest.mark.parametrize(
    ("stop", "text"), [(("45",), "123"), (("x",), "123456789"), (("9x",), "123456789")]
)
def test_an_answer_ends_before_a_stop_word(stop: tuple[str, ...], text: str) -> None:
    """And text that was held back for one that did not come is emitted at the end."""
    one = request(stop=stop)
    with running(count) as engine:
        engine.submit(one)
        assert read(one) == text


def test_the_time_of_an_answer_counts_from_its_turn() -> None:
    """The wait in the queue does not count; one that takes too long ends with a side note."""
    go = threading.Event()

    def compute(one: Request) -> None:
        assert not one.timed_out
        one.emit("begun ")
        while not one.should_stop:
            go.wait(0.001)

    one, two = request(seconds=0.05), request(seconds=0.05)
    with running(compute) as engine:
        engine.submit(one)
        engine.submit(two)
        late = "<<<WARNING>>>The answer took longer than 0.05 s and was cut off.<<</WARNING>>>"
        assert read(one) == f"begun {late}"
        assert read(two) == f"begun {late}"


def test_a_note_comes_after_the_text_and_not_after_a_stop_word() -> None:
    """A stop word is an end that was asked for."""

    def compute(one: Request) -> None:
        count(one)
        one.add_side_note(NOTE)

    plain, stopped = request(stop=("9x",)), request(stop=("5",))
    with running(compute) as engine:
        engine.submit(plain)
        engine.submit(stopped)
        assert read(plain) == f"123456789{SIDE_NOTE.format(NOTE)}"
        assert read(stopped) == "1234"


class Forgetful(SerialScheduler):
    """A scheduler that has lost its request when it fails."""

    def step(self) -> None:
        """Fail."""
        super().reset()
        raise LookupError("the middle")

    def reset(self) -> None:
        """Drop the request, and fail again."""
        super().reset()
        if self.stubborn:
            raise LookupError("the end")

    stubborn = False


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_request_that_the_scheduler_lost_is_finished(stubborn: bool) -> None:
    """The engine itself knows what is running; it goes on whatever its scheduler does."""
    scheduler = Forgetful(count)
    scheduler.stubborn = stubborn
    engine = started(scheduler)
    try:
        for one in (request(), request()):
            engine.submit(one)
            with pytest.raises(LookupError, match="the middle"):
                read(one)
    finally:
        scheduler.stubborn = False
        engine.close()


def test_closing_stops_what_is_computed_and_what_waits() -> None:
    """The process may end: no thread is left in the middle of native code."""
    begun = threading.Event()

    def compute(one: Request) -> None:
        begun.set()
        while not one.should_stop:
            one.emit("a")

    first, second = request(), request()
    engine = started(SerialScheduler(compute))
    engine.submit(first)
    engine.submit(second)
    assert begun.wait(LONG)
    engine.close()
    assert first.cancelled
    assert set(read(first)) <= {"a"}
    assert read(second) == ""


# -- loading


def test_the_thread_that_loads_computes() -> None:
    """With a second one, OpenMP would keep a second team of threads."""
    threads: list[str] = []

    def compute(_: Request) -> None:
        threads.append(threading.current_thread().name)

    def load() -> Scheduler:
        threads.append(threading.current_thread().name)
        return SerialScheduler(compute, "as it was loaded")

    engine = Engine(load)
    engine.start()
    assert engine.description == "as it was loaded"
    one = request()
    engine.submit(one)
    read(one)
    engine.close()
    assert threads == ["engine", "engine"]


@pytest.mark.parametrize("error", [StartError("no memory"), LookupError("a bug"), SystemExit(3)])
def test_what_loading_raises_is_raised_by_start(error: BaseException) -> None:
    """As if it had been called there; the thread has ended."""

    def load() -> Scheduler:
        raise error

    engine = Engine(load)
    with pytest.raises(type(error)) as raised:
        engine.start()
    assert raised.value is error
    engine.close()
    assert "engine" not in {thread.name for thread in threading.enumerate()}


class Signalled(BaseException):
    """What a signal's handler raises."""


def handler(*_: object) -> None:
    """Raise it."""
    raise Signalled


@pytest.mark.parametrize("checks", [False, True])
def test_a_signal_ends_loading(checks: bool) -> None:
    """Between two steps, or in the middle of one that can be interrupted."""
    interrupted = threading.Event()
    left: list[type[BaseException]] = []

    def load() -> Scheduler:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        try:
            while checks:
                engine.check_open()
            assert interrupted.wait(LONG)
            raise LookupError
        except BaseException as error:
            left.append(type(error))
            raise

    engine = Engine(load, interrupted.set)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Signalled):
            engine.start()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert left == [Closed if checks else LookupError]
    assert "engine" not in {thread.name for thread in threading.enumerate()}
