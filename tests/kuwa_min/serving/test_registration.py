"""Keep the executor registered, against the embedded Kernel and odd ones."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator

import pytest

from kuwa_min.errors import HTTPError, StartError
from kuwa_min.httpd.messages import JSON, TEXT, Request, Response
from kuwa_min.httpd.server import Server
from kuwa_min.kernel import forms, protocol
from kuwa_min.kernel.embedded import EmbeddedKernel
from kuwa_min.kernel.records import ExecutorRecord
from kuwa_min.serving import registration
from kuwa_min.serving.metrics import Metrics
from kuwa_min.serving.registration import Registration
from tests.fakes.kuwa.kernel_hangs import hanging_kernel
from tests.fakes.kuwa.kernel_talks_garbage import garbage_kernel, odd_table
from tests.support.programs import TIMEOUT, reserved_port, until

ENDPOINTS = ["http://127.0.0.1:5/chat", "http://127.0.0.1:5/chat/1"]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "HEARTBEAT", 0.05)
    monkeypatch.setattr(registration, "BACKOFF_FIRST", 0.02)
    monkeypatch.setattr(registration, "REQUEST_TIMEOUT", TIMEOUT)  # these Kernels do answer
    monkeypatch.setattr(registration, "UNREGISTER_TIMEOUT", TIMEOUT)


@pytest.fixture
def metrics() -> Metrics:
    """Make metrics for one executor."""
    return Metrics("bot", backend="Test", version="0", slots=2)


@pytest.fixture
def kernel() -> Iterator[EmbeddedKernel]:
    """Run a Kernel for one test."""
    with EmbeddedKernel("127.0.0.1", 0) as one:
        yield one


def registered(
    url: str, metrics: Metrics, names: tuple[str, ...] = ("bot",), slots: int = 2
) -> Registration:
    """Make a registration of two slots."""
    return Registration(
        url, "v1.0", names=names, resolve_endpoints=lambda: ENDPOINTS[:slots], metrics=metrics
    )


def rows(kernel: EmbeddedKernel, name: str = "bot") -> list[str]:
    """Return the endpoints that the Kernel lists."""
    return [row[0] for row in kernel.records.table().get(name, [])]


@pytest.fixture
def port() -> Iterator[int]:
    """Reserve a port without a listener for the test."""
    with reserved_port() as number:
        yield number


def test_every_endpoint_is_registered_under_every_name_and_removed_at_the_end(
    kernel: EmbeddedKernel, metrics: Metrics
) -> None:
    """Register two slots under two names."""
    with registered(kernel.url, metrics, ("bot", "alias")):
        until(lambda: rows(kernel) == ENDPOINTS and rows(kernel, "alias") == ENDPOINTS)
    assert kernel.records.table() == {}


def test_a_base_path_needs_no_final_slash(kernel: EmbeddedKernel, metrics: Metrics) -> None:
    """Give the Kernel's address without its slash."""
    with registered(kernel.url.rstrip("/"), metrics):
        until(lambda: rows(kernel) == ENDPOINTS)


def test_a_left_over_record_is_renewed(kernel: EmbeddedKernel, metrics: Metrics) -> None:
    """Start where a killed process left a reserved record."""
    kernel.records.add("bot", ExecutorRecord(ENDPOINTS[0], "127.0.0.1"))
    kernel.records.schedule("bot", "1", "1")
    with registered(kernel.url, metrics, slots=1):
        until(lambda: kernel.records.table().get("bot") == [[ENDPOINTS[0], "READY", -1, -1]])


@pytest.mark.parametrize("slots", [1, 2])
def test_a_lost_record_is_registered_again(
    kernel: EmbeddedKernel, metrics: Metrics, slots: int
) -> None:
    """Take the records away, as a restarted Kernel does."""
    with registered(kernel.url, metrics, slots=slots):
        until(lambda: rows(kernel) == ENDPOINTS[:slots])
        kernel.records.remove("bot", ENDPOINTS[0])
        until(lambda: rows(kernel) == ENDPOINTS[:slots])
        until(lambda: metrics.registrations.value == 1)  # counted after the Kernel lists them


def test_one_lost_slot_is_registered_again_and_the_others_are_left_alone(
    kernel: EmbeddedKernel, metrics: Metrics
) -> None:
    """Lose the second slot while a chat runs in the first."""
    with registered(kernel.url, metrics):
        until(lambda: rows(kernel) == ENDPOINTS)
        kernel.records.schedule("bot", "1", "1")
        kernel.records.discard("bot", kernel.records._records["bot"][1])
        until(lambda: rows(kernel) == ENDPOINTS)
        assert kernel.records.table()["bot"][0][2:] == ["1", "1"]


def test_a_kernel_that_is_not_up_is_retried_and_logged_once(
    port: int, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Start the executor before it."""
    caplog.set_level(logging.INFO)
    with registered(f"http://127.0.0.1:{port}/", metrics):
        until(lambda: "waiting for the Kernel" in caplog.text)
        with EmbeddedKernel("127.0.0.1", port) as kernel:
            until(lambda: rows(kernel) == ENDPOINTS)
            until(lambda: "registered as bot" in caplog.text)
    assert caplog.text.count("waiting for the Kernel") == 1


def test_a_kernel_that_goes_away_and_comes_back_is_noticed(
    port: int, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Restart the Kernel empty on the same port."""
    caplog.set_level(logging.INFO)
    with registered(f"http://127.0.0.1:{port}/", metrics):
        with EmbeddedKernel("127.0.0.1", port) as kernel:
            until(lambda: rows(kernel) == ENDPOINTS)
        until(lambda: "lost the Kernel" in caplog.text)
        with EmbeddedKernel("127.0.0.1", port) as kernel:
            until(lambda: rows(kernel) == ENDPOINTS)
            until(lambda: "registered again" in caplog.text)


def test_a_hanging_kernel_does_not_hold_the_end_up(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop while the Kernel says nothing, long before the request to it would end by itself."""
    monkeypatch.setattr(registration, "UNREGISTER_TIMEOUT", 0.1)
    with hanging_kernel() as url:
        started = time.monotonic()
        with registered(url, metrics):
            pass
        assert time.monotonic() - started < TIMEOUT / 2


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\xff\x00garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nSucc",
        b"HTTP/1.1 500 Broken\r\nContent-Length: 4\r\n\r\nOops",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nMaybe?",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
        b"",
    ],
)
def test_garbage_is_retried(
    metrics: Metrics, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Talk to a server that is no Kernel."""
    with garbage_kernel(answer) as url, registered(url, metrics) as one:
        until(lambda: "waiting for the Kernel" in caplog.text)
        assert one._thread.is_alive()


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"\x00\xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b'HTTP/1.1 200 OK\r\n\r\n{"bot": [[["unhashable"], "READY", 1, 1]]}',
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
    ],
)
def test_a_table_that_cannot_be_read_costs_nothing(
    table: bytes, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """With several endpoints the table is read; those that are lost are registered all the same."""
    caplog.set_level(logging.INFO)
    with odd_table(table) as (url, registered_again), registered(url, metrics):
        until(lambda: metrics.registered.value == 1)
        until(lambda: len(registered_again) > 4)
        assert metrics.registered.value == 1
    assert "failed" not in caplog.text


def test_an_unexpected_error_is_told_and_ends_nothing(
    kernel: EmbeddedKernel,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The metric says 0 until the Kernel is known to list us, running chats keep their records."""
    caplog.set_level(logging.INFO)
    broken = threading.Event()

    def missing(_: Registration) -> list[tuple[str, str]]:
        if broken.is_set():
            raise MemoryError
        return []

    with registered(kernel.url, metrics):
        until(lambda: metrics.registered.value == 1)
        kernel.records.schedule("bot", "1", "1")
        monkeypatch.setattr(Registration, "_missing_records", missing)
        broken.set()
        until(lambda: "the thread registration failed: MemoryError" in caplog.text)
        until(lambda: metrics.registered.value == 0)
        broken.clear()
        until(lambda: metrics.registered.value == 1)
        assert kernel.records.table()["bot"][0][2:] == ["1", "1"]
    assert rows(kernel) == []


def test_names_that_the_kernel_took_are_unregistered_although_others_failed(
    metrics: Metrics,
) -> None:
    """At the end, whatever was logged last."""
    asked = list[tuple[str, str]]()

    def answer(request: Request) -> Response:
        name = forms.parse_form(request.body, "")["name"]
        asked.append((request.path.rpartition("/")[2], name))
        return Response(200, b"Success" if name == "bot" else b"No", TEXT)

    routes = {f"/v1.0/worker/{action}": {"POST": answer} for action in ("register", "unregister")}
    kernel = Server(("127.0.0.1", 0), routes)
    with kernel, registered(f"http://127.0.0.1:{kernel.port}/", metrics, ("bot", "alias"), 1):
        until(lambda: ("register", "alias") in asked)
    assert [name for action, name in asked if action == "unregister"] == ["bot"]


def test_no_proxy_of_the_environment_is_used(
    port: int, kernel: EmbeddedKernel, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Point every proxy variable at a closed port."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "")
    with registered(kernel.url, metrics):
        until(lambda: rows(kernel) == ENDPOINTS)


# -- reading the table


def test_the_table_is_read_as_each_kernel_shows_it() -> None:
    """0.3.4's page, 0.4's JSON, and 0.4's JSON of objects."""
    record = [ENDPOINTS[0], "READY", "7", "3"]
    expected = {"bot": [record]}
    objects = [dict(zip(protocol.RECORD_KEYS, record, strict=True))]
    assert protocol.parse_table(protocol.render_table({"bot": [record]}).decode()) == expected
    assert protocol.parse_table(json.dumps({"bot": [record]})) == expected
    assert protocol.parse_table(json.dumps({"bot": objects})) == expected


@pytest.mark.parametrize("page", ["", "Not Found", "[]", "{", '{"bot": 1}', '{"bot": [1]}', "null"])
def test_what_is_no_table_is_an_error(page: str) -> None:
    """Another program may listen there."""
    with pytest.raises(ValueError):
        protocol.parse_table(page)


@pytest.mark.parametrize("shown", ["read", "objects", "page"])
def test_the_route_that_shows_the_table_is_remembered(shown: str, metrics: Metrics) -> None:
    """Count what a Kernel of each kind is asked for."""
    asked: list[str] = []
    records: list[str] = []

    def register(request: Request) -> Response:
        endpoint = forms.parse_form(request.body, "")["endpoint"]
        if endpoint in records:
            return Response(200, b"Failed", TEXT)
        records.append(endpoint)
        return Response(200, b"Success", TEXT)

    def show(request: Request) -> Response:
        asked.append(request.path.rpartition("/")[2])
        rows = [[endpoint, "READY", "7", "3"] for endpoint in records]
        if shown == "page":
            return Response(200, protocol.render_table({"bot": rows}), "text/html")
        table = {"bot": [dict(zip(protocol.RECORD_KEYS, row, strict=True)) for row in rows]}
        assert request.header("accept") == JSON
        return Response(
            200, json.dumps(table if shown == "objects" else {"bot": rows}).encode(), JSON
        )

    def missing(_: Request) -> Response:
        asked.append("missing")
        raise HTTPError(404)

    routes = {
        "/v1.0/worker/register": {"POST": register},
        "/v1.0/worker/unregister": {"POST": lambda _: Response(200, b"Success", TEXT)},
        "/v1.0/worker/debug": {"GET": show},
        "/v1.0/worker/read": {"GET": show if shown == "read" else missing},
    }
    kernel = Server(("127.0.0.1", 0), routes)
    with kernel, registered(f"http://127.0.0.1:{kernel.port}/", metrics):
        until(lambda: len(asked) > 3)
        records.remove(ENDPOINTS[1])
        until(lambda: len(records) == 2)
    if shown == "read":
        assert set(asked) == {"read"}
    else:
        assert asked[:2] == ["missing", "debug"]
        assert set(asked[2:]) == {"debug"}


# -- a Kernel whose name does not resolve yet


def test_a_name_that_does_not_resolve_is_retried_and_logged_once(
    kernel: EmbeddedKernel, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The endpoints are known when it does."""
    caplog.set_level(logging.INFO)
    attempts = list[int]()

    def resolve_endpoints() -> list[str]:
        attempts.append(1)
        if len(attempts) < 4:
            raise StartError(f"cannot tell ({len(attempts)})")
        return ENDPOINTS

    one = Registration(
        kernel.url, "v1.0", names=["bot"], resolve_endpoints=resolve_endpoints, metrics=metrics
    )
    with one:
        until(lambda: rows(kernel) == ENDPOINTS)
    assert caplog.text.count("waiting for the Kernel") == 1
    assert "cannot tell (1)" in caplog.text
    assert len(attempts) == 4


def test_the_end_does_not_wait_for_a_name_that_never_resolves(metrics: Metrics) -> None:
    """Nothing was registered, so there is nothing to take back."""

    def resolve_endpoints() -> list[str]:
        raise StartError("cannot tell")

    with Registration(
        "http://k/", "v1.0", names=["bot"], resolve_endpoints=resolve_endpoints, metrics=metrics
    ):
        pass
