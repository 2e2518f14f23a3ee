"""Check the executor's routes over real sockets, with backends of a few lines each."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kuwa_min.chat import catalog
from kuwa_min.errors import AnswerError
from kuwa_min.httpd.server import Server
from kuwa_min.kernel.protocol import ChatRequest, endpoint_path
from kuwa_min.serving.backend_status import BackendStatus
from kuwa_min.serving.commands.abort_policy import AbortPolicy
from kuwa_min.serving.event_loop import EventLoop
from kuwa_min.serving.generations.factory import GenerationFactory
from kuwa_min.serving.generations.generator_runner import on_stop
from kuwa_min.serving.metrics import Metrics
from kuwa_min.serving.routes import ExecutorRoutes
from kuwa_min.serving.slots import Slots
from kuwa_min.serving.status import ExecutorStatus
from tests.support.programs import call, fetch, said, until

LONG = 60.0
WAITING_TIMEOUT = 240.0  # seconds
LOOP = EventLoop()  # shared, as by all chats of a process
Compute = Callable[[ChatRequest], AsyncGenerator[str, None]]


class Running:
    """An executor's routes behind a listening socket."""

    def __init__(
        self,
        compute: Compute,
        slots: int,
        abort: Callable[[], object],
        *,
        waiting: int = 0,
        on_loop: bool = True,
    ) -> None:
        self.metrics = Metrics("test", backend="Test", version="0", slots=slots)
        self.slots = Slots(slots, self.metrics, abort, waiting=waiting)
        paths = [endpoint_path("/chat", index) for index in range(slots + waiting)]
        self.backend_status = BackendStatus()
        about = ExecutorStatus(
            self.backend_status,
            self.metrics,
            version="0",
            backend="Test",
            access_codes=["test", "二"],
            started=time.monotonic(),
        )
        self.generations = GenerationFactory(
            self.slots,
            self.metrics,
            compute,
            waiting_timeout=WAITING_TIMEOUT,
            loop=LOOP if on_loop else None,
        )
        self.routes = ExecutorRoutes(
            paths,
            self.slots,
            self.metrics,
            self.generations,
            about.render,
            abort_policy=AbortPolicy(),
        )
        self.routes.ready = True
        self.server = Server(("127.0.0.1", 0), self.routes.table())
        self.base = f"http://127.0.0.1:{self.server.port}"
        self.chat = f"{self.base}/chat"

    def value(self, name: str, **labels: str) -> float:
        """Return one sample of /metrics."""
        for family in text_string_to_metric_families(fetch(f"{self.base}/metrics")[1]):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        raise LookupError(name)


@contextmanager
def running(
    compute: Compute,
    *,
    slots: int = 1,
    waiting: int = 0,
    abort: Callable[[], object] = lambda: None,
    on_loop: bool = True,
) -> Iterator[Running]:
    """Serve a backend for the length of a test."""
    one = Running(compute, slots, abort, waiting=waiting, on_loop=on_loop)
    with one.server:
        yield one


async def echo(chat: ChatRequest) -> AsyncGenerator[str, None]:
    """Repeat the last message, a character a piece."""
    for character in chat.history[-1]["content"]:
        yield character


async def silent(chat: ChatRequest) -> AsyncGenerator[str, None]:
    """Say one word, then nothing until a stop."""
    yield "word"
    await asyncio.Event().wait()


def test_a_chat_streams_utf8_without_framing_of_its_own() -> None:
    """Look at status, headers and body."""
    with running(echo) as one, call(one.chat, said("héllo 你好 🙂")) as response:
        assert response.status == 200
        assert response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        assert response.getheader("Transfer-Encoding") == "chunked"
        assert response.read().decode() == "héllo 你好 🙂"


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({}, False),
        ({"X-Kuwa-User-Id": "1"}, False),
        ({"X-Kuwa-Thoughts": "apart"}, False),  # on 0.3's wire there is no place for them
        ({"X-Kuwa-User-Id": "1", "X-Kuwa-Thoughts": "apart"}, True),
    ],
)
def test_a_backend_is_asked_for_thoughts_apart_by_a_header(
    headers: dict[str, str], asked: bool
) -> None:
    """Our chat page sends it."""
    seen = []

    async def look(chat: ChatRequest) -> AsyncGenerator[str, None]:
        seen.append(chat.modelfile.extras.separate_thoughts)
        yield "x"

    with running(look) as one, call(one.chat, said("hello"), fields=headers) as response:
        response.read()
    assert seen == [asked]


def test_headers_go_out_before_the_first_piece() -> None:
    """Wait for the head of an answer that has no text yet."""
    release = threading.Event()

    async def late(_: ChatRequest) -> AsyncGenerator[str, None]:
        release.wait(LONG)
        yield "late"

    with running(late) as one, call(one.chat, said("x")) as response:
        assert response.status == 200
        release.set()
        assert response.read() == b"late"


@pytest.mark.parametrize(
    ("form", "status", "text"),
    [
        ({}, 400, "Received empty request!"),
        ({"input": "nonsense"}, 400, "could not be read"),
        ({"input": '{"isbot": false}'}, 400, "could not be read"),
        ({"input": '[{"isbot": false, "msg": "x"}, null]'}, 400, "could not be read"),
        ({"input": "[" * 100_000}, 400, "could not be read"),
        ({"input": "[]", "modelfile": "FROM x"}, 400, "Modelfile"),
    ],
)
def test_malformed_chats_get_a_short_sentence(form: dict[str, str], status: int, text: str) -> None:
    """Send forms that no Kernel should send."""
    with running(echo) as one:
        code, body = fetch(one.chat, form)
    assert code == status
    assert text in json.loads(body)["msg"]
    assert len(body) < 200


@pytest.mark.parametrize(
    ("language", "loading", "busy", "malformed"),
    [
        ("en-US", catalog.LOADING, catalog.ENDPOINT_BUSY, catalog.MALFORMED_HISTORY),
        (
            "zh-TW",
            "模型仍在載入中，請稍候再試。",
            "正在處理另一個請求。",
            "無法讀取對話紀錄：必須是 JSON 格式的訊息清單。",
        ),
    ],
)
def test_a_refused_chat_gets_a_sentence_in_its_language(
    language: str, loading: str, busy: str, malformed: str
) -> None:
    """The Kernel shows it as the answer."""
    fields = {"Accept-Language": language}
    with running(silent) as one:
        one.routes.ready = False
        assert json.loads(fetch(one.chat, said("x"), fields=fields)[1])["msg"] == loading
        one.routes.ready = True
        answer = fetch(one.chat, {"input": "nonsense"}, fields=fields)[1]
        assert json.loads(answer)["msg"] == malformed
        with call(one.chat, said("x")) as first:
            assert first.read(4) == b"word"
            assert json.loads(fetch(one.chat, said("y"), fields=fields)[1])["msg"] == busy


def test_a_busy_slot_answers_429_and_other_slots_are_not_touched() -> None:
    """Fill one slot of two."""
    with running(silent, slots=2) as one, call(one.chat, said("x")) as first:
        assert first.read(4) == b"word"
        assert fetch(one.chat, said("y")) == (429, '{"msg":"Processing another request."}')
        with call(f"{one.chat}/1", said("y")) as second:
            assert second.read(4) == b"word"
            assert one.value("executor_framework_busy_slots") == 2


def test_abort_ends_a_silent_answer_at_once_and_only_its_own_slot() -> None:
    """Abort the second of two silent chats."""
    with running(silent, slots=2) as one, ExitStack() as stack:
        first = stack.enter_context(call(one.chat, said("x")))
        second = stack.enter_context(call(f"{one.chat}/1", said("y")))
        assert first.read(4) == second.read(4) == b"word"
        assert fetch(f"{one.chat}/1/abort") == (200, '{"msg":"Aborted"}')
        assert second.read() == b""
        until(lambda: one.value("executor_framework_busy_slots") == 1)
        assert one.value("executor_framework_aborted_total") == 1


def test_abort_of_an_idle_slot_says_so() -> None:
    """Abort nothing."""
    with running(echo) as one:
        assert fetch(f"{one.chat}/abort") == (200, '{"msg":"No process to abort"}')


def test_after_an_abort_the_next_chat_works() -> None:
    """Abort, then chat in the same slot."""

    async def either(chat: ChatRequest) -> AsyncGenerator[str, None]:
        async for piece in silent(chat) if chat.history[-1]["content"] == "wait" else echo(chat):
            yield piece

    with running(either) as one:
        with call(one.chat, said("wait")) as response:
            assert response.read(4) == b"word"
            fetch(f"{one.chat}/abort")
            assert response.read() == b""
        assert fetch(one.chat, said("next")) == (200, "next")


def test_an_answer_ends_although_its_backend_blocks_and_the_next_one_waits_for_it() -> None:
    """Abort a backend that cannot be interrupted."""
    blocked, release, ends = threading.Event(), threading.Event(), list[str]()

    async def stubborn(chat: ChatRequest) -> AsyncGenerator[str, None]:
        if chat.history[-1]["content"] == "block":
            yield "start"
            blocked.set()
            release.wait(LONG)
            ends.append("blocked one ended")
        else:
            ends.append("next one began")
            yield "next"

    with running(stubborn) as one:
        with call(one.chat, said("block")) as response:
            assert response.read(5) == b"start"
            assert blocked.wait(LONG)
            assert fetch(f"{one.chat}/abort")[1] == '{"msg":"Aborted"}'
            assert response.read() == b""  # whole: the last chunk came
        with call(one.chat, said("next")) as response:
            assert response.status == 200  # not 429: the slot is free for the Kernel
            assert ends == []
            release.set()
            assert response.read() == b"next"
    assert ends == ["blocked one ended", "next one began"]


def test_a_backend_that_blocks_is_stopped_by_its_own_call_and_loses_no_time() -> None:
    """Abort, and hang up on, a backend that waits for its call and for nothing else."""
    blocked, ended = threading.Semaphore(0), threading.Semaphore(0)

    async def blocking_one(_: ChatRequest) -> AsyncGenerator[str, None]:
        unblock = threading.Event()
        on_stop(unblock.set)
        yield "start"
        blocked.release()
        unblock.wait(3 * LONG)
        ended.release()
        yield "never"

    with running(blocking_one) as one:
        with call(one.chat, said("x")) as response:
            assert response.read(5) == b"start"
            assert blocked.acquire(timeout=LONG)
            assert fetch(f"{one.chat}/abort") == (200, '{"msg":"Aborted"}')
            assert response.read() == b""
        assert ended.acquire(timeout=LONG)
        until(lambda: one.value("executor_framework_busy_slots") == 0)
        with call(one.chat, said("x")) as response:  # there is no orphan to wait for
            assert response.read(5) == b"start"
            assert blocked.acquire(timeout=LONG)
        assert ended.acquire(timeout=LONG)
        until(lambda: one.value("executor_framework_busy_slots") == 0)


def test_draining_makes_the_call_of_a_backend_that_blocks() -> None:
    """Cut an answer short at the end of the process."""
    blocked, ended = threading.Event(), threading.Event()

    async def blocking_one(_: ChatRequest) -> AsyncGenerator[str, None]:
        unblock = threading.Event()
        on_stop(unblock.set)
        yield "start"
        blocked.set()
        unblock.wait(LONG)
        ended.set()

    with running(blocking_one) as one, call(one.chat, said("x")) as response:
        assert response.read(5) == b"start"
        assert blocked.wait(LONG)
        one.slots.close()
        one.slots.drain(0)
        assert ended.is_set()
        assert response.read().decode().endswith("<<</WARNING>>>")


def test_a_stop_call_that_hangs_blocks_neither_the_process_nor_other_clients() -> None:
    """Disconnect one client and drain the other chats; every stop call waits for the test's end."""
    release, returned = threading.Event(), threading.Event()

    def hang() -> None:
        release.wait(LONG)
        returned.set()

    async def compute(chat: ChatRequest) -> AsyncGenerator[str, None]:
        on_stop(hang)
        yield "word"
        await asyncio.sleep(LONG)

    with running(compute, slots=3) as one, ExitStack() as stack:
        for index in (1, 2):
            response = stack.enter_context(call(f"{one.chat}/{index}", said("x")))
            assert response.read(4) == b"word"
        for _ in range(2):
            with call(one.chat, said("leaves")) as response:
                assert response.read(4) == b"word"
            until(lambda: len(one.slots.active()) == 2)
        one.slots.close()
        one.slots.drain(0)
        assert one.slots.active() == []
        assert not returned.is_set()
        release.set()


def test_a_disconnect_stops_a_silent_backend_and_releases_the_slot() -> None:
    """Hang up during silence."""
    closed = threading.Event()

    async def attentive(_: ChatRequest) -> AsyncGenerator[str, None]:
        try:
            yield "word"
            await asyncio.sleep(LONG)
        finally:
            closed.set()

    with running(attentive) as one:
        with call(one.chat, said("x")) as response:
            assert response.read(4) == b"word"
        assert closed.wait(LONG / 2)
        until(lambda: one.value("executor_framework_busy_slots") == 0)
        assert one.value("executor_framework_disconnected_total") == 1


def test_the_backends_abort_is_called_for_aborts_and_for_disconnects() -> None:
    """Count the calls."""
    calls = threading.Semaphore(0)
    with running(silent, abort=calls.release) as one:
        with call(one.chat, said("x")) as response:
            response.read(4)
            fetch(f"{one.chat}/abort")
            response.read()  # the endpoint is free by then
        assert calls.acquire(timeout=LONG)
        with call(one.chat, said("x")) as response:
            response.read(4)
        assert calls.acquire(timeout=LONG)


def test_the_slot_is_free_before_the_last_chunk() -> None:
    """Start the next chat the very moment that the last one has ended, many times."""
    with running(echo) as one:
        for number in range(200):
            assert fetch(one.chat, said(f"chat {number}")) == (200, f"chat {number}")


def test_a_failing_backend_ends_the_answer_with_an_apology(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Raise something that quotes the user."""

    async def failing(chat: ChatRequest) -> AsyncGenerator[str, None]:
        yield "half "
        raise ValueError(f"could not handle {chat.history[-1]['content']}")

    with running(failing) as one:
        answer = fetch(one.chat, said("a private matter"))
        assert answer == (200, "half Error occurred. Please consult support.")
        assert one.value("executor_framework_failed_total") == 1
        assert one.value("executor_framework_process_time_seconds_count") == 0
        assert fetch(one.chat, said("again"))[0] == 200
    assert "in failing: ValueError" in caplog.text
    assert "private" not in caplog.text


def test_the_message_of_an_answer_error_is_what_the_user_reads() -> None:
    """Raise a sentence that is meant for the user."""

    async def declining(_: ChatRequest) -> AsyncGenerator[str, None]:
        yield ""
        raise AnswerError("[No input message entered]")

    with running(declining) as one:
        assert fetch(one.chat, said("x")) == (200, "[No input message entered]")
        assert one.value("executor_framework_failed_total") == 0


@pytest.mark.parametrize("piece", [None, b"bytes", 7])
def test_a_piece_that_is_not_text_is_a_failure_not_a_hang(piece: object) -> None:
    """Yield the wrong type."""

    async def odd(_: ChatRequest) -> AsyncGenerator[str, None]:
        yield piece  # type: ignore[misc]

    with running(odd) as one:
        assert fetch(one.chat, said("x")) == (200, "Error occurred. Please consult support.")


def test_a_backend_that_exits_does_not_take_the_answer_or_the_slot_with_it() -> None:
    """Call sys.exit() in the middle of an answer."""

    async def leaving(_: ChatRequest) -> AsyncGenerator[str, None]:
        yield "bye "
        raise SystemExit(1)

    with running(leaving) as one:
        assert fetch(one.chat, said("x"))[1].startswith("bye Error occurred.")
        assert fetch(one.chat, said("x"))[0] == 200


def test_while_the_model_loads_health_and_chats_say_503() -> None:
    """Ask too early."""
    with running(echo) as one:
        one.routes.ready = False
        assert fetch(f"{one.base}/health")[0] == 503
        status, text = fetch(one.chat, said("x"))
        assert status == 503
        assert "loading" in text
        one.routes.ready = True
        assert fetch(f"{one.base}/health") == (204, "")
        assert fetch(one.chat, said("x")) == (200, "x")


def test_status_says_in_json_how_far_the_executor_is() -> None:
    """Ask while it loads, when it is ready, during a chat, and when it stops."""

    def status() -> dict[str, object]:
        with call(f"{one.base}/status") as response:
            assert response.status == 200
            assert response.getheader("Content-Type") == "application/json"
            found: dict[str, object] = json.loads(response.read())
        return found

    with running(silent, slots=2) as one:
        one.routes.ready = False
        one.backend_status.begin("loading ./model")(1, 4)
        loading = status()
        assert loading["state"] == "loading"
        assert loading["progress"] == {
            "what": "loading ./model",
            "done": 1,
            "total": 4,
            "percent": 25,
            "seconds_left": pytest.approx(0, abs=10),
        }
        one.backend_status.end()
        one.backend_status.describe({"device": "cuda:0"})
        one.routes.ready = True
        ready = status()
        assert 0 < ready.pop("uptime_seconds") < 20  # type: ignore[operator]
        assert ready == {
            "state": "ready",
            "version": "0",
            "backend": "Test",
            "access_codes": ["test", "二"],
            "slots": 2,
            "busy_slots": 0,
            "waiting": 0,
            "longest_wait_seconds": 0.0,
            "registered": False,
            "model": {"device": "cuda:0"},
        }
        with call(one.chat, said("a private matter")) as response:
            assert response.read(4) == b"word"
            busy = status()
            assert busy["busy_slots"] == 1
            assert "private" not in str(busy)
        one.slots.close()
        assert status()["state"] == "stopping"


def test_health_metrics_and_abort_answer_while_a_backend_hogs_the_processor() -> None:
    """Ask during a computation that never awaits and yields nothing, until the machine has time."""
    stop = threading.Event()

    async def hog(_: ChatRequest) -> AsyncGenerator[str, None]:
        while not stop.is_set():
            sum(range(1000))
        yield "done"

    with running(hog, slots=2) as one, call(one.chat, said("x")) as response:

        def took(path: str) -> float:
            started = time.monotonic()
            assert fetch(one.base + path)[0] in (200, 204)
            return time.monotonic() - started

        paths = ("/health", "/metrics", "/status", "/chat/1/abort") * 3
        until(lambda: statistics.median(map(took, paths)) < 0.1)
        stop.set()
        assert response.read() == b"done"


def test_closed_slots_refuse_and_draining_lets_answers_end_whole() -> None:
    """Close during an answer, then drain."""
    started, release = threading.Event(), threading.Event()

    async def slow(_: ChatRequest) -> AsyncGenerator[str, None]:
        yield "one "
        started.set()
        while not release.is_set():
            await asyncio.sleep(0.01)
        yield "two"

    with running(slow) as one, call(one.chat, said("x")) as response:
        assert started.wait(LONG)
        one.slots.close()
        assert fetch(one.chat, said("y"))[0] == 503
        drain = threading.Thread(target=one.slots.drain, args=(LONG,))
        drain.start()
        release.set()
        assert response.read() == b"one two"
        drain.join(LONG)
        assert not drain.is_alive()


def test_draining_cuts_what_does_not_end_and_says_so() -> None:
    """Drain without time."""
    with running(silent) as one, call(one.chat, said("x")) as response:
        assert response.read(4) == b"word"
        one.slots.close()
        one.slots.drain(0)
        note = response.read().decode()
    assert note.strip().startswith("<<<WARNING>>>")
    assert note.strip().endswith("<<</WARNING>>>")


def test_only_answers_that_ended_well_are_observed() -> None:
    """Answer once, abort once."""
    with running(echo) as one:
        fetch(one.chat, said("x" * 25))
        assert one.value("executor_framework_output_length_charters_sum") == 25
        assert one.value("executor_framework_output_length_charters_bucket", le="20.0") == 0
        assert one.value("executor_framework_output_length_charters_bucket", le="30.0") == 1
        assert one.value("executor_framework_time_to_first_piece_seconds_count") == 1
    with running(silent) as one:
        with call(one.chat, said("x")) as response:
            response.read(4)
            fetch(f"{one.chat}/abort")
            response.read()
        assert one.value("executor_framework_output_length_charters_count") == 0


def test_the_kernel_may_say_multipart_over_an_urlencoded_body() -> None:
    """Send what the Kernel forwards for a multipart client."""
    fields = {"Content-Type": "multipart/form-data; boundary=xyz"}
    with running(echo) as one:
        assert fetch(one.chat, said("hello"), fields=fields) == (200, "hello")


def test_a_request_waiting_behind_a_stream_is_answered_after_it() -> None:
    """Pipeline a health check behind a chat."""
    with running(echo) as one:
        form = b"input=%5B%7B%22isbot%22%3Afalse%2C%22msg%22%3A%22hi%22%7D%5D"
        with socket.create_connection(("127.0.0.1", one.server.port), LONG) as sock:
            sock.sendall(
                b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
                b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                % (len(form), form)
            )
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.index(b"0\r\n\r\n") < answer.index(b"HTTP/1.1 204")


def test_a_chat_that_the_kernel_forwards_is_answered_under_the_kernels_name() -> None:
    """The name is that by which the front end calls the Kernel."""
    with running(echo) as one:
        for host in ("kernel:9000", "kuwa.example"):
            assert fetch(one.chat, said("hello"), fields={"Host": host}) == (200, "hello")


def test_a_slash_at_the_end_of_a_path_means_nothing() -> None:
    """Chats and all the rest are found with it and without it."""
    with running(echo, slots=2) as one:
        for path in ("/", "/1/"):
            assert fetch(one.chat + path, said("hello")) == (200, "hello")
            assert fetch(f"{one.chat}{path}abort/") == (200, '{"msg":"No process to abort"}')
        assert fetch(one.chat.removesuffix("/chat") + "/health/") == (204, "")


def test_the_bodies_that_the_kernel_shows_are_kuwas_to_the_byte() -> None:
    """No spaces; the last piece of a running chat comes after its abort."""
    with running(silent) as one:
        assert fetch(one.chat, {}, method="POST") == (400, '{"msg":"Received empty request!"}')
        with call(one.chat, said("x")) as response:
            response.read(4)
            busy = fetch(one.chat, said("y"))
            assert busy == (429, '{"msg":"Processing another request."}')
            assert fetch(f"{one.chat}/abort") == (200, '{"msg":"Aborted"}')
            response.read()


def test_an_image_on_a_foreign_page_stops_no_chat() -> None:
    """Send what a browser sends for it on plain HTTP: no Origin and no Sec-Fetch-Site."""
    fields = {
        "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "Accept": "image/avif,image/webp,*/*",
        "Accept-Language": "zh-TW,en;q=0.5",
        "Referer": "http://a.example/",
    }
    with running(silent) as one, call(one.chat, said("x")) as response:
        response.read(4)
        status, text = fetch(f"{one.chat}/abort", fields=fields)
        assert status == 403
        assert "無權停止對話" in text
        assert fetch(f"{one.chat}/abort") == (200, '{"msg":"Aborted"}')
        response.read()


def test_a_host_name_that_is_refused_is_explained_in_the_log_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Call twice under a name that was not allowed."""
    with running(echo) as one:
        for _ in range(2):
            fields = {"Host": "kernel.example:9000", "Origin": "http://kernel.example:9000"}
            status, text = fetch(one.chat, said("x"), fields=fields)
            assert status == 421
            assert "--allowed_hosts" in text
    assert caplog.text.count("an unknown host (14 characters) are refused") == 1
