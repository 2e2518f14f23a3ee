"""Check the embedded Kernel's routes against what protocol.py says of the Kernel."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from kuwa_min.kernel import embedded, executor_hosts, records
from kuwa_min.kernel.embedded import EmbeddedKernel
from tests.fakes.kuwa.executor_answers import Executor, chunk
from tests.fakes.kuwa.kernel_talks_garbage import garbage_kernel
from tests.kuwa_min.serving.test_routes import Running, echo, running, silent
from tests.support.programs import (
    TIMEOUT,
    call,
    chat_through,
    fetch,
    post_json,
    reserved_port,
    said,
    table,
    until,
)

WORKER, CHAT = "v1.0/worker", "v1.0/chat"


@pytest.fixture
def kernel() -> Iterator[str]:
    """Run a Kernel for one test; give its address with the final slash."""
    with EmbeddedKernel("127.0.0.1", 0) as one:
        yield one.url


def word(url: str, **form: str) -> str:
    """Post a form and return the Kernel's word."""
    return fetch(url, form)[1]


def join(kernel: str, one: Running, name: str = "bot", slots: int = 1) -> None:
    """Register an executor's slots."""
    for index in range(slots):
        endpoint = f"{one.chat}/{index}" if index else one.chat
        assert word(f"{kernel}{WORKER}/register", name=name, endpoint=endpoint) == "Success"


def test_an_endpoint_is_registered_once_under_a_name(kernel: str) -> None:
    """Register twice, and under a second name."""
    register = f"{kernel}{WORKER}/register"
    assert word(register, name="a", endpoint="http://127.0.0.1:1/chat") == "Success"
    assert word(register, name="a", endpoint="http://127.0.0.1:1/chat") == "Failed"
    assert word(register, name="b", endpoint="http://127.0.0.1:1/chat") == "Success"
    assert json.loads(fetch(f"{kernel}{WORKER}/list")[1]) == ["a", "b"]
    assert table(kernel.rstrip("/"))["a"] == [["http://127.0.0.1:1/chat", "READY", -1, -1]]


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"name": "a"},
        {"endpoint": "http://127.0.0.1:1/chat"},
        {"name": "a", "endpoint": "nonsense"},
        {"name": "a", "endpoint": "http://[broken"},
        {"name": "a", "endpoint": "file:///etc/passwd"},
    ],
)
def test_an_incomplete_registration_fails(kernel: str, form: dict[str, str]) -> None:
    """Leave a field out, or give what is no address."""
    assert fetch(f"{kernel}{WORKER}/register", form or {"x": ""})[1] == "Failed"


def test_an_executor_joins_once_however_many_endpoints_it_has(
    kernel: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Register two slots, then a neighbour."""
    caplog.set_level("INFO")
    for endpoint in ("http://127.0.0.1:1/chat", "http://127.0.0.1:1/chat/1", "http://127.0.0.1:2/"):
        word(f"{kernel}{WORKER}/register", name="a", endpoint=endpoint)
    assert caplog.text.count("an executor joined: a at") == 2


def test_unregistering_removes_every_path_of_that_host_and_port(kernel: str) -> None:
    """Register two slots and a neighbour, unregister with another path."""
    for endpoint in ("http://127.0.0.1:1/chat", "http://127.0.0.1:1/chat/1", "http://127.0.0.1:2/"):
        word(f"{kernel}{WORKER}/register", name="a", endpoint=endpoint)
    unregister = f"{kernel}{WORKER}/unregister"
    assert word(unregister, name="a", endpoint="http://127.0.0.1:1/other") == "Success"
    assert [row[0] for row in table(kernel.rstrip("/"))["a"]] == ["http://127.0.0.1:2/"]
    assert word(unregister, name="a", endpoint="http://127.0.0.1:1/chat") == "Failed"
    assert word(unregister, name="unknown", endpoint="http://127.0.0.1:1/chat") == "Failed"


def test_a_chat_is_scheduled_streamed_and_released(kernel: str) -> None:
    """Schedule, chat and read, as a front end does."""
    with running(echo) as one:
        join(kernel, one)
        answer = chat_through(kernel.rstrip("/"), "bot", "héllo 你好")
    assert answer == "héllo 你好"
    assert table(kernel.rstrip("/"))["bot"][0][1:] == ["READY", -1, -1]


def test_schedule_says_busy_when_all_are_reserved_and_nomachine_when_there_is_none(
    kernel: str,
) -> None:
    """Ask three times for two slots."""
    schedule = f"{kernel}{WORKER}/schedule"
    with running(echo, slots=2) as one:
        join(kernel, one, slots=2)
        words = [word(schedule, name="bot", history_id=str(n), user_id="1") for n in range(3)]
    assert words == ["READY", "READY", "BUSY"]
    assert word(schedule, name="unknown", history_id="1", user_id="1") == "NOMACHINE"


def test_a_reservation_that_is_not_used_expires(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reserve, and let no time at all be enough."""
    schedule = f"{kernel}{WORKER}/schedule"
    word(f"{kernel}{WORKER}/register", name="bot", endpoint="http://127.0.0.1:1/chat")
    assert word(schedule, name="bot", history_id="1", user_id="1") == "READY"
    assert word(schedule, name="bot", history_id="2", user_id="1") == "BUSY"
    monkeypatch.setattr(records, "RESERVATION_SECONDS", 0.0)
    assert word(schedule, name="bot", history_id="2", user_id="1") == "READY"


def test_a_chat_without_a_reservation_is_empty(kernel: str) -> None:
    """Chat without asking first."""
    form = {"name": "bot", "history_id": "1", "user_id": "1", **said("x")}
    assert fetch(f"{kernel}{CHAT}/completions", form) == (200, "")


def test_an_executor_that_refuses_the_connection_is_forgotten(kernel: str) -> None:
    """Register a port without a listener."""
    with reserved_port() as port:
        word(f"{kernel}{WORKER}/register", name="bot", endpoint=f"http://127.0.0.1:{port}/chat")
        assert chat_through(kernel.rstrip("/"), "bot", "x") == ""
        assert fetch(f"{kernel}{WORKER}/list")[1] == "[]"


def test_abort_reaches_the_right_executor(kernel: str) -> None:
    """Abort one of two chats of the same user."""
    base = kernel.rstrip("/")
    with running(silent, slots=2) as one:
        join(kernel, one, slots=2)
        answers: dict[int, str] = {}

        def chat(history_id: int) -> None:
            answers[history_id] = chat_through(base, "bot", "x", history_id)

        threads = [threading.Thread(target=chat, args=(n,)) for n in (1, 2)]
        for thread in threads:
            thread.start()
        until(lambda: [chat._writer.characters for chat in one.slots.active()] == [4, 4])
        assert word(f"{kernel}{CHAT}/abort", history_id="[2]", user_id="7") == "Success"
        threads[1].join(TIMEOUT)
        assert answers == {2: "word"}
        assert len(one.slots.active()) == 1
        word(f"{kernel}{CHAT}/abort", history_id="[1]", user_id="another")
        assert len(one.slots.active()) == 1
        word(f"{kernel}{CHAT}/abort", history_id="[1]", user_id="7")
        threads[0].join(TIMEOUT)
    assert answers == {1: "word", 2: "word"}


@pytest.mark.parametrize("ids", ["", "nonsense", "7", "{}", "[" * 100_000])
def test_abort_evaluates_nothing(kernel: str, ids: str) -> None:
    """Send what is no list of numbers."""
    status, _ = fetch(f"{kernel}{CHAT}/abort", {"history_id": ids, "user_id": "1"})
    assert status in (200, 400)


def test_a_client_that_leaves_the_kernel_frees_the_executor(kernel: str) -> None:
    """Hang up on the Kernel in the middle of an answer."""
    ids = {"name": "bot", "history_id": "1", "user_id": "1"}
    with running(silent) as one:
        join(kernel, one)
        word(f"{kernel}{WORKER}/schedule", **ids)
        with call(f"{kernel}{CHAT}/completions", {**ids, **said("x")}) as response:
            assert response.read(4) == b"word"
            assert len(one.slots.active()) == 1
        until(lambda: not one.slots.active())
    until(lambda: table(kernel.rstrip("/"))["bot"][0][1:] == ["READY", -1, -1])


def test_what_an_executor_refuses_is_shown_as_its_answer(kernel: str) -> None:
    """Chat with an executor that is still loading."""
    with running(echo) as one:
        join(kernel, one)
        one.routes.ready = False
        assert "loading" in chat_through(kernel.rstrip("/"), "bot", "x")


def test_an_answer_that_breaks_off_is_not_passed_on_as_whole(kernel: str) -> None:
    """Let the executor die in the middle of its answer."""
    half = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
    ids = {"name": "bot", "history_id": "1", "user_id": "1"}
    with garbage_kernel(half) as url:
        word(f"{kernel}{WORKER}/register", name="bot", endpoint=f"{url}chat")
        word(f"{kernel}{WORKER}/schedule", **ids)
        with call(f"{kernel}{CHAT}/completions", {**ids, **said("x")}) as response:
            with pytest.raises(http.client.IncompleteRead) as error:
                response.read()
            assert error.value.partial == b"half"


def test_the_page_knows_the_interface_version() -> None:
    """Run a Kernel of another version."""
    with EmbeddedKernel("127.0.0.1", 0, version="v2.0") as one:
        assert 'data-version="v2.0"' in fetch(one.url)[1]
        assert fetch(f"{one.url}v2.0/worker/list") == (200, "[]")
        assert fetch(f"{one.url}v1.0/worker/list")[0] == 404


def test_names_are_escaped_in_the_debug_page(kernel: str) -> None:
    """Register a name that would break out of the textarea."""
    evil = "</textarea><script>alert(1)</script>"
    word(f"{kernel}{WORKER}/register", name=evil, endpoint="http://127.0.0.1:1/chat")
    assert "<script>" not in fetch(f"{kernel}{WORKER}/debug")[1]
    assert list(table(kernel.rstrip("/"))) == [evil]


def test_the_debug_page_shows_names_as_the_front_end_looks_for_them(kernel: str) -> None:
    """Its health check searches the body for the quoted name; programs may ask for JSON."""
    word(f"{kernel}{WORKER}/register", name="a", endpoint="http://127.0.0.1:1/chat")
    word(f"{kernel}{WORKER}/schedule", name="a", history_id="7", user_id="3")
    assert '"a"' in fetch(f"{kernel}{WORKER}/debug")[1]
    shown = fetch(f"{kernel}{WORKER}/debug", fields={"Accept": "application/json"})[1]
    keys = ("endpoint", "status", "job_history_id", "job_user_id")
    row = ["http://127.0.0.1:1/chat", "READY", "7", "3"]
    assert json.loads(shown) == {"a": [dict(zip(keys, row, strict=True))]}
    assert json.loads(fetch(f"{kernel}{WORKER}/read")[1]) == {"a": [row]}


def test_shutdown_asks_the_executor_and_leaves_the_record_to_it(kernel: str) -> None:
    """Neither a state that is out of date nor ids as text hinder it."""
    with Executor() as one:
        word(f"{kernel}{WORKER}/register", name="bot", endpoint=f"{one.url}/chat/1")
        record = {"access_code": "bot", "endpoint": f"{one.url}/chat/1"}
        url = f"{kernel}{WORKER}/shutdown"
        for ids in ({}, {"status": "BUSY", "history_id": "7", "user_id": -1}):
            success = {"message": "Shutdown triggered successfully", "status": "success"}
            assert post_json(url, {**record, **ids}) == (200, success)
        assert [path for path, _ in one.requests] == ["GET /shutdown"] * 2
        one.status = b"403 Forbidden"
        assert post_json(url, record)[1]["message"] == "The executor refused: status 403."
        for sent in ({}, [], None, {**record, "endpoint": one.url}, {**record, "access_code": 1}):
            assert post_json(url, sent)[0] == 404
    status, said_ = post_json(url, record)
    assert (status, said_["status"]) == (500, "error")
    assert fetch(f"{kernel}{WORKER}/list")[1] == '["bot"]'


def test_a_free_record_moves_to_another_name(kernel: str) -> None:
    """One that is reserved stays; so does one whose place is taken."""
    for name in ("a", "b"):
        word(f"{kernel}{WORKER}/register", name=name, endpoint="http://127.0.0.1:1/chat")
    url, new = f"{kernel}{WORKER}/update", {"endpoint": "http://127.0.0.1:2/chat"}
    old = {"original_access_code": "a", "original_endpoint": "http://127.0.0.1:1/chat"}
    taken = {"access_code": "b", "endpoint": "http://127.0.0.1:1/chat"}
    assert post_json(url, {**old, **taken})[0] == 404
    assert post_json(url, {**old, "access_code": "c", "endpoint": "nonsense"})[0] == 400
    word(f"{kernel}{WORKER}/schedule", name="a", history_id="7", user_id="3")
    assert post_json(url, {**old, **new, "access_code": "c"})[0] == 404
    old["original_access_code"] = "b"
    assert post_json(url, {**old, **new, "access_code": "c"})[0] == 200
    assert table(kernel.rstrip("/"))["c"] == [["http://127.0.0.1:2/chat", "READY", -1, -1]]
    assert json.loads(fetch(f"{kernel}{WORKER}/list")[1]) == ["a", "c"]


def test_the_executor_gets_the_headers_that_it_reads_and_its_lines_stay_whole(kernel: str) -> None:
    """0.4's headers, the empty one too, and the language; nothing else of a browser."""
    ids = {"name": "bot", "history_id": "7", "user_id": "3"}
    lines = ['data: {"delta": ["\\u4e2d"]}\n', "raw 中\n", 'data: {"delta": []}\n']
    with Executor() as one:
        one.body = b"".join(map(chunk, lines)) + b"0\r\n\r\n"
        word(f"{kernel}{WORKER}/register", name="bot", endpoint=f"{one.url}/chat")
        word(f"{kernel}{WORKER}/schedule", **ids)
        fields = {"Accept-Language": "zh_tw", "X-Kuwa-User-Id": "3", "X-Kuwa-Api-Base-Urls": ""}
        fields["Cookie"] = "secret"
        answer = fetch(f"{kernel}{CHAT}/completions", {**ids, **said("x")}, fields=fields)
        assert answer == (200, "".join(lines))
        _, head = one.requests[0]
    assert "accept-language: zh_tw\n" in head
    assert "x-kuwa-user-id: 3\n" in head
    assert "x-kuwa-api-base-urls: \n" in head
    assert "secret" not in head


@pytest.mark.parametrize("field", ["name", "endpoint"])
def test_names_and_endpoints_have_a_longest(
    kernel: str, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is refused leaves nothing behind, in the table or in the log."""
    caplog.set_level("INFO")
    form = {"name": "a", "endpoint": "http://127.0.0.1:1/chat"}
    for length, status in ((embedded.MAX_LENGTH, 200), (embedded.MAX_LENGTH + 1, 400)):
        long = {**form, field: form[field].ljust(length, "x")}
        assert fetch(f"{kernel}{WORKER}/register", long)[0] == status
    assert len(table(kernel.rstrip("/"))) == 1
    assert caplog.text.count("an executor joined") == 1
    long_id = {"name": "a", "history_id": "1" * (embedded.MAX_LENGTH + 1), "user_id": "1"}
    assert fetch(f"{kernel}{WORKER}/schedule", long_id)[0] == 400


def test_a_full_table_takes_no_more(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under whatever names; what leaves makes room."""
    monkeypatch.setattr(records, "MAX_RECORDS", 3)
    words = [
        word(f"{kernel}{WORKER}/register", name=name, endpoint=f"http://127.0.0.1:{port}/")
        for port, name in enumerate("aabc", 1)
    ]
    assert words == ["Success"] * 3 + ["Failed"]
    word(f"{kernel}{WORKER}/unregister", name="a", endpoint="http://127.0.0.1:1/")
    assert word(f"{kernel}{WORKER}/register", name="c", endpoint="http://127.0.0.1:4/") == "Success"


def test_another_machine_joins_only_if_the_operator_names_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says once how; no path of an endpoint stands there, as it may be a secret."""
    caplog.set_level("INFO")
    ours, other = "http://127.0.0.1:1/s3cret/chat", "http://192.0.2.1:80/s3cret/chat"
    with EmbeddedKernel("127.0.0.1", 0) as one:
        for name in ("a", "b"):
            assert word(f"{one.url}{WORKER}/register", name=name, endpoint=other) == "Failed"
        assert word(f"{one.url}{WORKER}/register", name="a", endpoint=ours) == "Success"
        moved = {"original_access_code": "a", "original_endpoint": ours}
        new = {"access_code": "a", "endpoint": other}
        assert post_json(f"{one.url}{WORKER}/update", {**moved, **new})[0] == 400
        assert word(f"{one.url}{WORKER}/unregister", name="a", endpoint=ours) == "Success"
    assert caplog.text.count("--executor_hosts") == 1
    assert "http://192.0.2.1:80, registered from 127.0.0.1" in caplog.text
    assert "s3cret" not in caplog.text
    with EmbeddedKernel("127.0.0.1", 0, executor_hosts=["192.0.2.0/24"]) as one:
        assert word(f"{one.url}{WORKER}/register", name="a", endpoint=other) == "Success"


def test_chats_go_to_the_address_that_was_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the endpoint's name stands for none, or another one, by now."""
    ids = {"name": "bot", "history_id": "1", "user_id": "1"}
    with EmbeddedKernel("127.0.0.1", 0) as kernel, Executor() as one:
        one.body = chunk("here") + b"0\r\n\r\n"
        found = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)
        monkeypatch.setattr(executor_hosts, "look_up", lambda *_: found)
        endpoint = one.url.replace("127.0.0.1", "rebinding.invalid")
        word(f"{kernel.url}{WORKER}/register", name="bot", endpoint=f"{endpoint}/chat")
        word(f"{kernel.url}{WORKER}/schedule", **ids)
        answer = fetch(f"{kernel.url}{CHAT}/completions", {**ids, **said("x")})
        assert answer == (200, "here")
        assert "host: rebinding.invalid" in one.requests[0][1].lower()


def test_abort_reaches_running_chats_by_their_own_ids_only(kernel: str) -> None:
    """Neither an endpoint that is reserved, nor by ids that are no list of them."""
    with Executor() as one:
        word(f"{kernel}{WORKER}/register", name="bot", endpoint=f"{one.url}/chat")
        word(f"{kernel}{WORKER}/schedule", name="bot", history_id="1", user_id="7")
        for ids in ("[1]", "[-1]", '"1"', '{"1": 1}', "1"):
            for user in ("7", "-1", ""):
                fetch(f"{kernel}{CHAT}/abort", {"history_id": ids, "user_id": user})
        assert one.requests == []


def test_other_web_sites_are_refused(kernel: str) -> None:
    """Send what a foreign page's script would send."""
    fields = {"Origin": "http://evil.example"}
    form = {"name": "a", "endpoint": "http://127.0.0.1:1/chat"}
    assert fetch(f"{kernel}{WORKER}/register", form, fields=fields)[0] == 403
    assert fetch(f"{kernel}{WORKER}/shutdown", form, fields=fields)[0] == 403
    assert fetch(f"{kernel}{WORKER}/list")[1] == "[]"


def test_executors_and_front_ends_may_call_the_kernel_by_any_name(kernel: str) -> None:
    """Register, list and read by a service's name; the page is for names that are ours."""
    host = {"Host": "kernel:9000"}
    form = {"name": "a", "endpoint": "http://127.0.0.1:1/chat"}
    assert fetch(f"{kernel}{WORKER}/register", form, fields=host) == (200, "Success")
    assert json.loads(fetch(f"{kernel}{WORKER}/list", fields=host)[1]) == ["a"]
    assert fetch(f"{kernel}{WORKER}/debug", fields=host)[0] == 200
    assert fetch(f"{kernel}health", fields=host)[0] == 204
    assert fetch(kernel, fields=host)[0] == 421


@pytest.mark.parametrize("route", ["list", "debug"])
def test_a_page_on_a_rebound_name_reads_no_table(kernel: str, route: str) -> None:
    """A browser names its languages."""
    fields = {"Host": "rebinding.example", "Accept-Language": "en"}
    assert fetch(f"{kernel}{WORKER}/{route}", fields=fields)[0] == 421
