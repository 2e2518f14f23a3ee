"""Check slots and the queue before them over real sockets: order, waits, limits, ends."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from urllib.parse import urlencode

import pytest

from kuwa_min.chat import catalog
from kuwa_min.chat.chunks import Piece
from kuwa_min.errors import HTTPError
from kuwa_min.kernel.protocol import ChatRequest, endpoint_path
from kuwa_min.kernel.wire import RawEncoder
from kuwa_min.serving import slots as slots_module
from kuwa_min.serving.generations import generation
from kuwa_min.serving.generations.generation import Generation
from kuwa_min.serving.generations.generator_adapter import as_generator
from kuwa_min.serving.generations.generator_runner import on_stop
from kuwa_min.serving.metrics import Metrics
from kuwa_min.serving.slots import Slots
from tests.kuwa_min.serving.test_routes import Running, running
from tests.support.programs import call, fetch, said, until

LONG = 60.0


class Gated:
    """A backend that records whom it answers, then blocks until that chat's gate opens."""

    def __init__(self) -> None:
        self.order: list[str] = []  # whose chats began
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self._gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def gate(self, name: str) -> threading.Event:
        """Return the event that lets a chat end."""
        with self._lock:
            return self._gates.setdefault(name, threading.Event())

    async def compute(self, chat: ChatRequest) -> AsyncGenerator[str, None]:
        """Answer with the user's words; wait on this thread, which a stop ends."""
        name = chat.history[-1]["content"]
        self.order.append(name)
        self.began[name] = time.monotonic()  # last: tests wait for it
        on_stop(self.gate(name).set)
        yield name
        self.gate(name).wait(LONG)
        self.ended[name] = time.monotonic()


@pytest.fixture
def gated() -> Gated:
    """Make a gated backend."""
    return Gated()


def serve(gated: Gated, *, slots: int = 1, waiting: int = 1) -> AbstractContextManager[Running]:
    """Run a gated backend, each chat on its own thread."""
    return running(gated.compute, slots=slots, waiting=waiting, on_loop=False)


def chat(one: Running, index: int, name: str, **fields: str) -> tuple[int, str]:
    """Have a whole chat at an endpoint."""
    return fetch(one.base + endpoint_path("/chat", index), said(name, **fields))


def waiting(one: Running) -> int:
    """Return how many chats wait, as /status says."""
    return int(json.loads(fetch(f"{one.base}/status")[1])["waiting"])


def test_eight_users_on_two_slots_are_all_served_in_order(gated: Gated) -> None:
    """None is refused, and each starts soon after the end that it waited for."""
    names = [f"chat {number}" for number in range(8)]
    with serve(gated, slots=2, waiting=6) as one, ThreadPoolExecutor(8) as pool:
        answers = []
        for index, name in enumerate(names):
            answers.append(pool.submit(chat, one, index, name, user_id=str(index)))
            until(lambda count=index + 1: len(one.slots.active()) == count)
        until(lambda: waiting(one) == 6)
        assert one.value("executor_framework_waiting_chats") == 6
        assert one.value("executor_framework_busy_slots") == 2
        assert one.value("executor_framework_endpoints") == 8
        assert one.value("executor_framework_longest_wait_seconds") > 0
        gaps = []
        for ending, beginning in zip(names, names[2:], strict=False):
            gated.gate(ending).set()
            until(lambda name=beginning: name in gated.began)
            gaps.append(gated.began[beginning] - gated.ended[ending])
        for name in names[-2:]:
            gated.gate(name).set()
        assert [answer.result() for answer in answers] == [(200, name) for name in names]
        assert sorted(gated.order[:2]) == names[:2]  # their threads begin in any order
        assert gated.order[2:] == names[2:]
        assert min(gaps) < 0.1  # a poll would be slower each time
        until(lambda: one.value("executor_framework_busy_slots") == 0)
        assert one.value("executor_framework_waiting_seconds_count") == 8
        assert one.value("executor_framework_longest_wait_seconds") == 0


def test_a_users_second_chat_comes_after_the_first_ones_of_others(gated: Gated) -> None:
    """Two of a, then one of b."""
    with serve(gated, waiting=3) as one, ThreadPoolExecutor(4) as pool:
        for index, name in enumerate(("r1", "a1", "a2", "b1")):
            pool.submit(chat, one, index, name, user_id=name[0])
            until(lambda count=index + 1: len(one.slots.active()) == count)
        for name in ("r1", "a1", "a2", "b1"):
            gated.gate(name).set()
    assert gated.order == ["r1", "a1", "b1", "a2"]


def test_a_chat_beyond_all_endpoints_is_refused_as_before(gated: Gated) -> None:
    """One runs, one waits at the second endpoint; the same endpoint takes no other chat."""
    with serve(gated) as one, call(one.chat, said("first")) as first:
        assert first.read(5) == b"first"
        with call(f"{one.chat}/1", said("second")) as second:
            assert second.status == 200
            assert chat(one, 1, "third") == (429, '{"msg":"Processing another request."}')
            assert chat(one, 2, "fourth")[0] == 404
            gated.gate("first").set()
            assert second.read(6) == b"second"


@pytest.mark.parametrize("way", ["abort", "hang up"])
def test_a_waiting_chat_leaves_the_queue_at_once(
    gated: Gated, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The one behind it takes its place, and it is never computed."""
    caplog.set_level(logging.INFO)
    with serve(gated, waiting=2) as one, ExitStack() as stack:
        first = stack.enter_context(call(one.chat, said("first")))
        assert first.read(5) == b"first"
        leaving = socket_of(one, 1, "leaving")
        until(lambda: waiting(one) == 1)
        last = stack.enter_context(call(f"{one.chat}/2", said("last")))
        until(lambda: waiting(one) == 2)
        if way == "abort":
            assert fetch(f"{one.chat}/1/abort") == (200, '{"msg":"Aborted"}')
            assert read_all(leaving).endswith(b"\r\n\r\n0\r\n\r\n")
        leaving.close()
        until(lambda: waiting(one) == 1)
        until(lambda: one.slots.at(1) is None)
        outcome = "aborted" if way == "abort" else "left by the reader"
        until(lambda: f"endpoint 1: {outcome}, 0 characters" in caplog.text)
        gated.gate("first").set()
        assert last.read(4) == b"last"
        assert gated.order == ["first", "last"]
        counted = "aborted" if way == "abort" else "disconnected"
        assert one.value(f"executor_framework_{counted}_total") == 1
        assert one.value("executor_framework_waiting_seconds_count") == 2


def socket_of(one: Running, index: int, name: str) -> socket.socket:
    """Start a chat on a bare socket."""
    body, path = urlencode(said(name)), endpoint_path("/chat", index)
    sock = socket.create_connection(("127.0.0.1", one.server.port), LONG)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(f"{head}{body}".encode())
    return sock


def read_all(sock: socket.socket) -> bytes:
    """Read until the last chunk."""
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        more = sock.recv(4096)
        assert more
        data += more
    return data


@pytest.mark.parametrize(
    ("language", "sentence"),
    [("en_us", catalog.NO_SLOT), ("zh_tw", catalog.NO_SLOT.render("zh"))],
)
def test_a_wait_that_takes_too_long_ends_with_a_sentence(
    gated: Gated, language: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The endpoint is free again, and the chat that runs goes on."""
    caplog.set_level(logging.INFO)
    with serve(gated) as one, call(one.chat, said("first")) as first:
        one.generations._waiting_timeout = 0.1
        assert first.read(5) == b"first"
        fields = {"Accept-Language": language}
        for _ in range(2):
            assert fetch(f"{one.chat}/1", said("late"), fields=fields) == (200, sentence)
        assert waiting(one) == 0
        gated.gate("first").set()
        assert first.read() == b""
        assert gated.order == ["first"]
    found = re.search(
        r"endpoint 1: declined, \d+ characters in .* s, (\S+) s of them in the", caplog.text
    )
    assert found
    assert float(found[1]) >= 0.1


def test_a_waiting_chat_sends_pings(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 0.4's wire a progress with its position, at each interval; on 0.3's nothing."""
    monkeypatch.setattr(generation, "PING_INTERVAL", 0.01)
    with serve(gated, waiting=3) as one, ExitStack() as stack:
        answers = []
        for index, name in enumerate(("first", "second", "third", "raw")):
            url = one.base + endpoint_path("/chat", index)
            fields = {} if name == "raw" else {"X-Kuwa-User-Id": "3"}
            answers.append(stack.enter_context(call(url, said(name), fields=fields)))
            until(lambda count=index + 1: len(one.slots.active()) == count)
        _, second, third, raw = answers
        for response, position in ((second, 1), (third, 2), (second, 1)):
            progress = until(lambda r=response: progress_in(r.readline()))
            assert progress["position"] == position
        gated.gate("first").set()
        until(lambda: "second" in gated.began)
        until(lambda: (progress_in(third.readline()) or {}).get("position") == 1)
        for name in ("second", "third", "raw"):
            gated.gate(name).set()
        assert raw.read() == b"raw"
        assert third.read().endswith(b"\n")


def test_a_waiting_chat_of_our_page_learns_its_place_at_once(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others do after an interval, which does not pass here."""
    monkeypatch.setattr(generation, "PING_INTERVAL", LONG)
    fields = {"X-Kuwa-User-Id": "3", "X-Kuwa-Thoughts": "apart"}
    with serve(gated) as one, call(one.chat, said("first", history_id="1"), fields=fields):
        until(lambda: "first" in gated.began)
        form = said("second", history_id="2")
        with call(one.base + endpoint_path("/chat", 1), form, fields=fields) as second:
            progress = progress_in(second.readline())
            assert progress is not None
            assert progress["position"] == 1
            for name in ("first", "second"):
                gated.gate(name).set()
            assert progress_in(second.readline()) is None


def progress_in(line: bytes) -> dict[str, Any] | None:
    """Return the progress that a line of 0.4 holds, if it does."""
    (chunk,) = json.loads(line.removeprefix(b"data: "))["delta"] or [{}]
    return chunk.get("progress")  # type: ignore[no-any-return]


def test_a_computation_that_blocks_keeps_its_slot_but_not_its_endpoint() -> None:
    """Abort it: the endpoint takes the next chat at once, which waits until it has really ended."""
    blocked, release, order = threading.Event(), threading.Event(), list[str]()

    async def stubborn(chat: ChatRequest) -> AsyncGenerator[str, None]:
        name = chat.history[-1]["content"]
        yield name
        if name == "blocks":
            blocked.set()
            release.wait(LONG)
        order.append(name)

    with running(stubborn, waiting=1, on_loop=False) as one:
        with call(one.chat, said("blocks")) as response:
            assert response.read(6) == b"blocks"
            assert blocked.wait(LONG)
            assert fetch(f"{one.chat}/abort")[0] == 200
            assert response.read() == b""
        assert one.slots.at(0) is None
        assert one.value("executor_framework_busy_slots") == 1
        with call(one.chat, said("next")) as response:
            assert response.status == 200
            until(lambda: waiting(one) == 1)
            release.set()
            assert response.read() == b"next"
    assert order == ["blocks", "next"]


def test_a_chat_that_is_stopped_before_it_begins_is_not_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even called: a plain function would compute its whole answer."""
    calls = list[ChatRequest]()

    def compute(chat: ChatRequest) -> AsyncGenerator[str, None]:
        calls.append(chat)
        return as_generator("answer")

    with running(compute) as one:
        acquire = one.slots.acquire

        def acquire_and_cancel(index: int, generation: Generation) -> None:
            acquire(index, generation)
            generation.runner.cancel()

        monkeypatch.setattr(one.slots, "acquire", acquire_and_cancel)
        assert chat(one, 0, "x") == (200, "")
        assert calls == []
        monkeypatch.undo()
        assert chat(one, 0, "x") == (200, "answer")


def test_no_chat_begins_while_the_backends_abort_runs(gated: Gated) -> None:
    """Abort the one chat that computes while another waits."""
    begun, finish = threading.Event(), threading.Event()

    def abort() -> None:
        begun.set()
        assert finish.wait(LONG)

    with (
        running(gated.compute, waiting=1, on_loop=False, abort=abort) as one,
        call(one.chat, said("first")) as first,
        call(f"{one.chat}/1", said("next")) as after,
    ):
        assert first.read(5) == b"first"
        until(lambda: waiting(one) == 1)
        assert fetch(f"{one.chat}/abort")[0] == 200
        assert begun.wait(LONG)
        assert first.read() == b""
        until(lambda: one.value("executor_framework_busy_slots") == 0)
        assert waiting(one) == 1
        finish.set()
        assert after.read(4) == b"next"
        gated.gate("next").set()


def test_the_backends_abort_is_not_called_for_a_chat_that_waits(gated: Gated) -> None:
    """It would hit the one that computes."""
    calls: list[Callable[[], None]] = []
    with (
        running(gated.compute, waiting=1, on_loop=False, abort=lambda: calls.append(print)) as one,
        call(one.chat, said("first")) as first,
        call(f"{one.chat}/1", said("next")) as after,
    ):
        assert first.read(5) == b"first"
        until(lambda: waiting(one) == 1)
        assert fetch(f"{one.chat}/1/abort")[0] == 200
        assert after.read() == b""
        gated.gate("first").set()
        assert first.read() == b""
    assert calls == []


class Table:
    """Slots without a server, and generations that answer nothing."""

    def __init__(self, count: int, *, abort: Callable[[], object] | None = None) -> None:
        self.metrics = Metrics("test", backend="Test", version="0", slots=count)
        self.slots = Slots(count, self.metrics, abort, waiting=2)

    def generation(self, index: int) -> Generation:
        """Make a generation for an endpoint."""
        encoder = RawEncoder(chat_room=False)
        return Generation(
            index, self.slots, self.metrics, nothing, encoder, waiting_timeout=LONG, user=str(index)
        )

    def acquire(self, index: int) -> Generation:
        """Give an endpoint to a generation, and return it."""
        generation = self.generation(index)
        self.slots.acquire(index, generation)
        return generation

    def end(self, generation: Generation) -> None:
        """End a generation and its response."""
        generation.runner.end()
        assert self.slots.release(generation)


def refusal(table: Table, index: int) -> tuple[int, str, dict[str, str]]:
    """Return how a chat at this endpoint is refused."""
    with pytest.raises(HTTPError) as refused:
        table.acquire(index)
    return refused.value.status, refused.value.message, refused.value.headers


def test_there_is_an_endpoint_for_each_slot_and_each_waiting_chat() -> None:
    """Without waiting chats, for each slot."""
    metrics = Metrics("test", backend="Test", version="0", slots=3)
    assert Slots(3, metrics, None).active() == []
    assert metrics.endpoints.value == 3
    table = Table(3)
    assert table.metrics.endpoints.value == 5
    assert [table.slots.at(index) for index in range(5)] == [None] * 5


def test_a_taken_endpoint_is_refused_until_it_is_released() -> None:
    """By the generation that holds it, and once."""
    table = Table(1)
    first = table.acquire(0)
    assert refusal(table, 0) == (429, catalog.ENDPOINT_BUSY, {})
    stranger = table.generation(0)
    assert not table.slots.release(stranger)
    assert not table.slots.cancel_and_release(stranger)
    assert table.slots.at(0) is first
    assert table.slots.release(first) is True
    assert table.slots.release(first) is False
    assert table.slots.active() == []


def test_after_closing_new_chats_are_refused() -> None:
    """With 503 and when to try again; those that wait are admitted as before."""
    table = Table(1)
    first, second = table.acquire(0), table.acquire(1)
    assert table.slots.closed is False
    table.slots.close()
    assert table.slots.closed is True
    assert refusal(table, 2) == (503, catalog.STOPPING, {"Retry-After": "5"})
    assert table.slots.queue_position(second) == (1, 1)
    table.end(first)
    assert second.ticket.admitted


def test_a_chat_can_leave_the_queue_once() -> None:
    """One that runs cannot."""
    table = Table(1)
    first, second = table.acquire(0), table.acquire(1)
    assert table.slots.leave_queue(first) is False
    assert table.slots.leave_queue(second) is True
    assert table.slots.leave_queue(second) is False


def test_the_backends_abort_is_called_for_the_only_chat_that_runs() -> None:
    """On a thread of its own, which the end of the process does not wait for."""
    threads = list[threading.Thread]()
    table = Table(2, abort=lambda: threads.append(threading.current_thread()))
    first, second = table.acquire(0), table.acquire(1)
    table.slots.call_abort(first)
    table.end(second)
    assert table.slots.cancel_and_release(second) is False
    assert table.slots.cancel_and_release(first) is True
    assert table.slots.active() == []
    (thread,) = until(lambda: threads)
    assert thread is not threading.current_thread()
    assert thread.daemon
    first.runner.end()
    assert until(lambda: table.slots._queue._holds == 0)
    assert table.acquire(2).ticket.admitted


def test_an_abort_that_fails_does_not_close_the_queue(caplog: pytest.LogCaptureFixture) -> None:
    """The next chat is admitted once it has ended."""

    def abort() -> None:
        raise LookupError

    table = Table(1, abort=abort)
    first, second = table.acquire(0), table.acquire(1)
    table.slots.call_abort(first)
    first.runner.end()
    until(lambda: second.ticket.admitted)
    until(lambda: "the thread abort failed: LookupError" in caplog.text)


def test_an_abort_for_which_no_thread_is_left_does_not_close_the_queue(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next chat is admitted when the first ends."""
    table = Table(1, abort=lambda: None)
    first, second = table.acquire(0), table.acquire(1)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        table.slots.call_abort(first)
    assert "abort() was not called: can't start new thread" in caplog.messages
    first.runner.end()
    assert second.ticket.admitted


def test_running_chats_share_the_interpreter_and_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At each change."""
    tuned = list[int]()
    monkeypatch.setattr(slots_module, "tune_switch_interval", tuned.append)
    table = Table(2)
    chats = [table.acquire(index) for index in range(3)]
    assert tuned == [1, 2, 2]
    assert (table.metrics.busy_slots.value, table.metrics.waiting.value) == (2, 1)
    assert table.metrics.longest_wait.value > 0
    table.end(chats[0])
    assert tuned == [1, 2, 2, 2]
    assert (table.metrics.busy_slots.value, table.metrics.waiting.value) == (2, 0)


def test_draining_waits_for_a_chat_that_sends_its_last_pieces() -> None:
    """Its endpoint is free already."""
    table = Table(1)
    first = table.acquire(0)
    drain = threading.Thread(target=table.slots.drain, args=(LONG,))
    with table.slots.flushing(first):
        table.end(first)
        drain.start()
        assert table.slots._wait_until_idle(0.01) is False
        assert drain.is_alive()
    drain.join(LONG)
    assert not drain.is_alive()


def test_the_last_pieces_come_without_pauses_once_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it is told before they begin or in their middle."""
    hurried = list[Generation]()
    monkeypatch.setattr(Generation, "skip_pauses", lambda one: hurried.append(one))
    table = Table(2)
    first, second = table.acquire(0), table.acquire(1)
    with table.slots.flushing(first):
        assert hurried == []
        table.slots.close()
        assert hurried == [first]
    with table.slots.flushing(second):
        assert hurried == [first, second]


def test_draining_returns_as_soon_as_all_have_ended() -> None:
    """Nothing is cancelled."""
    table = Table(1)
    first = table.acquire(0)
    drain = threading.Thread(target=table.slots.drain, args=(LONG,))
    drain.start()
    table.end(first)
    drain.join(LONG)
    assert not drain.is_alive()


def test_calls_into_a_backend_are_waited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends in time has ended when the process goes on."""
    monkeypatch.setattr(slots_module, "DRAIN_GRACE", LONG)
    ended, waits, join = list[int](), list[float](), threading.Thread.join

    def wait(thread: threading.Thread, seconds: float) -> None:
        waits.append(seconds)
        join(thread, seconds)

    monkeypatch.setattr(threading.Thread, "join", wait)
    slots_module._call_all([lambda: ended.append(1), lambda: ended.append(1)])
    assert all(LONG / 2 < seconds <= LONG for seconds in waits)
    assert ended == [1, 1]


def test_what_hangs_in_a_backend_is_detached_and_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls are made at the same time, each on a thread that the process may end without."""
    monkeypatch.setattr(slots_module, "DRAIN_GRACE", 0.05)
    release, threads = threading.Event(), list[threading.Thread]()

    def hang() -> None:
        threads.append(threading.current_thread())
        release.wait(LONG)

    table = Table(3)
    chats = [table.acquire(index) for index in range(3)]
    waits = table.acquire(3)
    for chat in chats:
        chat.runner.on_stop(hang)
    table.slots.drain(0)
    until(lambda: len(threads) == 3)
    assert all(thread.daemon for thread in threads)
    until(lambda: table.slots.active() == [])
    assert waits.ticket.wait(0)
    assert not waits.ticket.admitted
    release.set()
    for thread in threads:
        thread.join(LONG)


async def nothing() -> AsyncGenerator[Piece, None]:
    """Answer without a word."""
    return
    yield ""


def test_draining_serves_waiting_chats_while_there_is_time(gated: Gated) -> None:
    """Close with one running and one waiting; both end whole."""
    with serve(gated) as one, ExitStack() as stack:
        first = stack.enter_context(call(one.chat, said("first")))
        second = stack.enter_context(call(f"{one.chat}/1", said("second")))
        assert first.read(5) == b"first"
        until(lambda: waiting(one) == 1)
        one.slots.close()
        drain = threading.Thread(target=one.slots.drain, args=(LONG,))
        drain.start()
        gated.gate("first").set()
        assert second.read(6) == b"second"
        gated.gate("second").set()
        assert second.read() == b""
        drain.join(LONG)
        assert not drain.is_alive()


def test_draining_dismisses_waiting_chats_with_a_sentence(gated: Gated) -> None:
    """Drain without time: the running one is cut short, the waiting one gets a sentence."""
    with serve(gated) as one, ExitStack() as stack:
        first = stack.enter_context(call(one.chat, said("first")))
        second = stack.enter_context(call(f"{one.chat}/1", said("second")))
        assert first.read(5) == b"first"
        until(lambda: waiting(one) == 1)
        one.slots.close()
        one.slots.drain(0)
        assert second.read().decode() == catalog.STOPPING
        assert first.read().decode().endswith("<<</WARNING>>>")
    assert gated.order == ["first"]


# -- places of other clients' chats


def test_places_are_taken_in_any_order_until_none_is_free() -> None:
    """They are no endpoints of the Kernel's, and come back when their chats are over."""
    metrics = Metrics("test", backend="Test", version="0", slots=1)
    slots = Slots(1, metrics, None, waiting=1, others=2)
    assert metrics.endpoints.value == 2
    with slots.reserve_place() as first:
        assert first == 2
        with slots.reserve_place() as second:
            assert second == 3
            with pytest.raises(HTTPError) as refused, slots.reserve_place():
                pass
            assert (refused.value.status, refused.value.message) == (429, catalog.QUEUE_FULL)
            assert refused.value.headers == {"Retry-After": "2"}
            slots.check(0)
        assert slots.find_place() == 3
    assert slots.find_place() == 2
    slots.close()
    with pytest.raises(HTTPError) as stopped:
        slots.find_place()
    assert (stopped.value.status, stopped.value.message) == (503, catalog.STOPPING)


def test_without_other_clients_there_are_no_places() -> None:
    """As with --api off."""
    metrics = Metrics("test", backend="Test", version="0", slots=1)
    with pytest.raises(HTTPError, match=str(catalog.QUEUE_FULL)):
        Slots(1, metrics, None).find_place()
