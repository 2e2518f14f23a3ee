"""The engine: one thread computes one request after the other, and a failure stays with its own."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import pytest

from backends._local import engine as engine_module
from backends._local.engine import Closed, Engine
from backends._local.machine import idle_measurements
from backends._local.machine.idle_measurements import Measurement
from backends._local.request import Request
from backends._local.scheduler import Scheduler, SerialScheduler
from kuwa_min.chat.sentence import Sentence
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.errors import AnswerError, StartError
from kuwa_min.process import supervision

NOTE = Sentence("A note.", "附註。")
LONG = 60.0


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
        assert engine.description == "one at a time"
        for one in requests:
            engine.submit(one)
        assert [read(one) for one in requests] == ["123456789"] * 5
    assert order == requests


class Slow:
    """A measurement of one piece that takes until it is aborted."""

    threads = 1

    def __init__(self) -> None:
        self.begun, self.aborted = threading.Event(), threading.Event()
        self.on_thread = ""

    def measure(self) -> Generator[None, None, None]:
        """Wait, and fail."""
        yield
        self.on_thread = threading.current_thread().name
        self.begun.set()
        assert self.aborted.wait(LONG)
        raise RuntimeError("aborted")

    def decide(self) -> str:
        """Fail: it was aborted."""
        raise AssertionError

    def abort(self) -> None:
        """End it."""
        self.aborted.set()


@pytest.mark.parametrize("end", ["chat", "expected", "close"])
def test_what_is_measured_meanwhile_makes_way(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a chat at once, and for the end of the process."""
    monkeypatch.setattr(idle_measurements, "QUIET", 0.0)
    scheduler, slow = SerialScheduler(count), Slow()
    scheduler.measurement = slow
    engine = started(scheduler)
    try:
        assert slow.begun.wait(LONG)
        if end == "chat":
            monkeypatch.setattr(idle_measurements, "QUIET", LONG)
            one = request()
            engine.submit(one)
            assert read(one) == "123456789"
        if end == "expected":  # its picture is encoded, say
            with engine.expecting():
                assert slow.aborted.wait(LONG)
                slow.begun.clear()
                assert not slow.begun.wait(0.05)
            assert slow.begun.wait(LONG)
    finally:
        engine.close()
    assert slow.aborted.is_set()
    assert slow.on_thread == "engine"
    assert not engine._thread.is_alive()


class Batch:
    """A scheduler of some requests at once: a step is a letter for each of them.

    options["letters"]: how many a request gets; go: what the first step waits for.
    """

    description = "some at once"
    measurement: Measurement | None = None

    def __init__(self, slots: int) -> None:
        self.slots, self.requests = slots, list[Request]()
        self.go = threading.Event()
        self.intervals: list[list[float]] = []  # the requests' emit_interval, at each step
        self.asked = 0

    def has_free_slot(self) -> bool:
        """Tell whether there is one."""
        return len(self.requests) < self.slots

    def has_work(self) -> bool:
        """Tell whether there is a request, and count the question."""
        self.asked += 1
        return bool(self.requests)

    def add(self, request: Request) -> None:
        """Add a request."""
        self.requests.append(request)

    def step(self) -> None:
        """Emit a letter for each."""
        assert self.go.wait(LONG)
        self.intervals.append([one.emit_interval for one in self.requests])
        for one in list(self.requests):
            one.completion_tokens += 1
            one.emit("a")
            if one.completion_tokens == one.options["letters"]:
                one.finish()
                self.requests.remove(one)

    def reset(self) -> None:
        """Drop all."""
        self.requests.clear()

    def close(self) -> None:
        """Nothing is kept."""


@pytest.mark.parametrize(("count", "interval"), [(3, 0.03), (8, 0.05)])
def test_the_more_requests_run_the_rarer_is_text_handed_over(count: int, interval: float) -> None:
    """Every 10 ms for each that runs, up to 50 ms; the last one is as fast as one alone."""
    scheduler = Batch(slots=8)
    engine = started(scheduler)
    requests = [Request([1], {"letters": letters}) for letters in [9] + [5] * (count - 1)]
    try:
        for one in requests:
            engine.submit(one)
        scheduler.go.set()
        assert [read(one) for one in requests] == ["a" * 9] + ["a" * 5] * (count - 1)
    finally:
        engine.close()
    assert [pytest.approx(interval)] * count in scheduler.intervals
    assert scheduler.intervals[-1] == [0.01]


def test_an_engine_without_work_waits() -> None:
    """It takes no processor's time, whatever time goes by."""
    scheduler = Batch(slots=2)
    scheduler.go.set()
    engine = started(scheduler)
    try:
        one = Request([1], {"letters": 3})
        engine.submit(one)
        assert read(one) == "aaa"
        asked = scheduler.asked
        time.sleep(0.02)
        assert scheduler.asked <= asked + 3  # what follows the end of the text
    finally:
        engine.close()


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


def test_the_time_of_an_answer_counts_from_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait in the queue does not count; one that takes too long ends with a side note."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def compute(one: Request) -> None:
        assert not one.should_stop
        one.emit("begun ")
        clock[0] += 6
        assert one.should_stop

    one, two = request(seconds=5), request(seconds=5)
    with running(compute) as engine:
        engine.submit(one)
        engine.submit(two)
        late = "<<<WARNING>>>The answer took longer than 5 s and was cut off.<<</WARNING>>>"
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
def test_a_request_that_the_scheduler_lost_is_finished(
    stubborn: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine itself knows what is running; it goes on whatever its scheduler does."""
    caplog.set_level(logging.DEBUG)
    scheduler = Forgetful(count)
    scheduler.stubborn = stubborn
    engine = started(scheduler)
    try:
        for one in (request(), request()):
            engine.submit(one)
            with pytest.raises(LookupError, match="the middle"):
                read(one)
        engine.close()
    finally:
        scheduler.stubborn = False
        engine.close()
    said = [(one.levelname, one.getMessage().partition(" at ")[0]) for one in caplog.records]
    failed = ("DEBUG", "the engine failed: LookupError")
    unclear = ("ERROR", "the engine could not clear up: LookupError")
    assert said == ([failed, unclear] * 2 + [unclear] if stubborn else [failed] * 2)


@pytest.mark.parametrize("error", [LookupError(), AnswerError("No.")])
def test_a_model_that_is_lost_ends_the_process(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at after failures that nothing explains, and the end is asked for once."""
    reasons, lost = list[str](), threading.Event()
    monkeypatch.setattr(supervision, "_end_process", reasons.append)

    def compute(_: Request) -> None:
        raise error

    def check(failure: BaseException) -> None:
        assert failure is error
        if lost.is_set():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine = Engine(lambda: SerialScheduler(compute), check=check)
    engine.start()
    try:
        for _ in range(3):
            engine.submit(one := request())
            with pytest.raises(type(error)):
                read(one)
            lost.set()
        engine.submit(one := request())  # what came before it was looked at
        with pytest.raises(type(error)):
            read(one)
    finally:
        engine.close()
    words = "CUDA error: an illegal memory access was encountered"
    assert reasons == ([words] if isinstance(error, LookupError) else [])


@pytest.mark.parametrize("is_loading", [True, False])
def test_an_engine_whose_library_never_returns_is_abandoned(
    is_loading: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it computes and what waits end with the reason, and nothing waits for its thread."""
    reasons, asked, returns = list[str](), threading.Event(), threading.Event()
    monkeypatch.setattr(supervision, "_end_process", reasons.append)
    engine: Engine

    def hang(_: Request | None = None) -> SerialScheduler:
        assert is_loading or asked.wait(LONG)
        engine.abandon("out of memory")
        returns.wait()
        return SerialScheduler(hang)

    engine = Engine(hang if is_loading else lambda: SerialScheduler(hang))
    try:
        if is_loading:
            with pytest.raises(StartError, match="out of memory"):
                engine.start()
        else:
            engine.start()
            for one in (requests := [request(), request()]):
                engine.submit(one)
            asked.set()
            for one in requests:
                with pytest.raises(StartError, match="out of memory"):
                    read(one)
        engine.close()
        assert engine._thread.is_alive()
    finally:
        returns.set()
        engine._thread.join()
    assert reasons == ([] if is_loading else ["out of memory"])


def test_failures_of_other_threads_are_examined_between_steps() -> None:
    """Not during one, which may be recording what a GPU computes; requests go on."""
    examined, computing, go_on = list[object](), threading.Event(), threading.Event()

    def compute(one: Request) -> None:
        computing.set()
        assert go_on.wait(LONG)
        one.emit(str(len(examined)))

    def check(failure: BaseException) -> None:
        examined.append((failure, threading.current_thread().name))

    engine, failure = Engine(lambda: SerialScheduler(compute), check=check), LookupError()
    engine.start()
    try:
        engine.submit(first := request())
        assert computing.wait(LONG)
        engine.examine(failure)
        engine.submit(second := request())
        go_on.set()
        assert (read(first), read(second)) == ("0", "1")
        assert examined == [(failure, "engine")]
    finally:
        engine.close()


def test_an_error_of_the_engine_itself_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Run out of memory while another error is being handled; the model is not loaded again."""
    loads, errors = list[int](), iter([MemoryError()])
    fail = Engine._fail

    def failing(engine: Engine, error: BaseException | None) -> None:
        fail(engine, error)
        for one in errors:
            raise one

    def load() -> Scheduler:
        loads.append(1)
        return Forgetful(count)

    monkeypatch.setattr(Engine, "_fail", failing)
    engine = Engine(load)
    engine.start()
    try:
        for _ in range(2):
            engine.submit(one := request())
            with pytest.raises(LookupError):
                read(one)
    finally:
        engine.close()
    assert loads == [1]
    assert "the thread engine failed: MemoryError" in caplog.text


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


def test_closing_does_not_wait_forever_for_a_step_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process may end without it."""
    monkeypatch.setattr(engine_module, "CLOSE_TIMEOUT", 0.01)
    begun, go = threading.Event(), threading.Event()

    def compute(_: Request) -> None:
        begun.set()
        assert go.wait(LONG)

    engine = started(SerialScheduler(compute))
    engine.submit(request())
    assert begun.wait(LONG)
    engine.close()
    assert engine._thread.is_alive()
    go.set()
    engine._thread.join(LONG)


def test_a_closed_engine_is_forgotten() -> None:
    """And the model's memory with it: no call is left for the end of the process."""
    engine = started(SerialScheduler(count))
    held = weakref.ref(engine)
    engine.close()
    del engine
    gc.collect()
    assert held() is None


# -- loading


def test_the_thread_that_loads_computes() -> None:
    """With a second one, OpenMP would keep a second team of threads."""
    threads: list[threading.Thread] = []

    def compute(_: Request) -> None:
        threads.append(threading.current_thread())

    def load() -> Scheduler:
        threads.append(threading.current_thread())
        return SerialScheduler(compute, "as it was loaded")

    engine = Engine(load)
    engine.start()
    assert engine.description == "as it was loaded"
    one = request()
    engine.submit(one)
    read(one)
    engine.close()
    assert threads[0] is threads[1]
    assert (threads[0].name, threads[0].daemon) == ("engine", True)


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
    assert not engine._thread.is_alive()


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
    assert not engine._thread.is_alive()


def test_closing_raises_closed_in_the_midst_of_loading() -> None:
    """Between two of Python's instructions, where nothing checks."""
    begun = threading.Event()
    left: list[type[BaseException]] = []

    def load() -> Scheduler:
        begun.set()
        try:
            while True:
                time.sleep(0.001)
        except BaseException as error:
            left.append(type(error))
            raise

    engine = Engine(load, lambda: engine.raise_closed())
    closing = threading.Thread(target=lambda: begun.wait(LONG) and engine.close())
    closing.start()
    with pytest.raises(Closed):
        engine.start()
    closing.join(LONG)
    assert left == [Closed]


def test_an_engine_that_was_not_started_can_be_closed() -> None:
    """A signal may come that early."""
    engine = Engine(lambda: SerialScheduler(count), lambda: engine.raise_closed())
    engine.close()
    with pytest.raises(Closed):
        engine.start()
