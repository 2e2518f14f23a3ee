"""The hardened server under real sockets, with tiny routes and limits of fractions of a second.

Every limit in seconds is checked from both sides: not before it, and before any other limit.
"""

from __future__ import annotations

import _thread
import contextlib
import gc
import http.client
import itertools
import logging
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kuwa_min.errors import HTTPError, StartError
from kuwa_min.httpd import acceptor, connection
from kuwa_min.httpd import server as server_module
from kuwa_min.httpd.body_writer import BodyWriter
from kuwa_min.httpd.connection_table import State
from kuwa_min.httpd.limits import Limits
from kuwa_min.httpd.messages import TEXT, CheckedRoute, Request, Response, StreamingResponse
from kuwa_min.httpd.server import Server
from kuwa_min.process import supervision
from tests.support.programs import ROOT, until

pytestmark = pytest.mark.slow  # real processes, time limits or builds

TIMEOUT = 60.0  # seconds until a client of these tests gives up
NEVER = 3600.0  # seconds of a limit that no test waits for
SHORT = 0.3  # seconds of a limit that a test waits for
MARK = "k1ck5haw"  # what must never come back

Headers = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What a client got: status, headers by lower-case name, body."""

    status: int
    headers: Headers
    body: bytes


class Client:
    """A raw HTTP client, which sends exact bytes and reads strictly."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None = None) -> None:
        host = "::1" if server.address_family == socket.AF_INET6 else "127.0.0.1"
        self.sock = socket.create_connection((host, server.port), TIMEOUT)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self._buffer = b""

    def __enter__(self) -> Client:
        """Return the connected client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self.sock.close()

    def send(self, *data: bytes) -> Client:
        """Send these bytes."""
        self.sock.sendall(b"".join(data))
        return self

    def until(self, mark: bytes) -> bytes:
        """Read up to a mark, which is dropped."""
        while mark not in self._buffer:
            more = self.sock.recv(65536)
            assert more, f"the server hung up after {self._buffer!r}"
            self._buffer += more
        part, _, self._buffer = self._buffer.partition(mark)
        return part

    def exactly(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        while len(self._buffer) < size:
            more = self.sock.recv(65536)
            assert more, f"the server hung up after {self._buffer!r}"
            self._buffer += more
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer, and not one byte more."""
        first, *lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        assert first.startswith("HTTP/1.1 ")
        status = int(first.split(" ", 2)[1])
        fields = {name.lower(): value for name, _, value in (ln.partition(": ") for ln in lines)}
        if method == "HEAD" or status in (100, 204):
            return Answer(status, fields, b"")
        if "transfer-encoding" in fields:
            return Answer(status, fields, self._chunks())
        return Answer(status, fields, self.exactly(int(fields["content-length"])))

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.until(b"\r\n"), 16):
            body += self.exactly(size)
            assert self.exactly(2) == b"\r\n"
        assert self.exactly(2) == b"\r\n"
        return body

    def rest(self) -> bytes:
        """Read up to the end of the connection, which must not be a reset."""
        data, self._buffer = self._buffer, b""
        while more := self.sock.recv(65536):
            data += more
        return data

    def ends(self) -> bool:
        """Tell whether the connection ended, in one way or the other, without another byte."""
        try:
            return self.rest() == b""
        except ConnectionError:
            return True


def hello(_: Request) -> Response:
    """Answer the same thing always."""
    return Response(200, b"hello", TEXT)


def echo(request: Request) -> Response:
    """Answer the body."""
    return Response(200, request.body, TEXT)


def broken(request: Request) -> Response:
    """Fail with a user's text in the error."""
    raise ValueError(request.body)


def refusing(_: Request) -> Response:
    """Refuse as routes do."""
    raise HTTPError(429, "Busy.", Retry_After="5")


def not_now(_: Request) -> None:
    """Refuse every request by its head."""
    raise HTTPError(429, "Not now.")


def streaming(*pieces: str) -> Callable[[Request], StreamingResponse]:
    """Make a route that streams these pieces."""

    def produce(writer: BodyWriter) -> None:
        for piece in pieces:
            writer.write(piece)
        writer.finish()

    return lambda _: StreamingResponse(produce, TEXT)


ROUTES: dict[str, dict[str, Callable[[Request], Any]]] = {
    "/": {"GET": hello, "HEAD": hello},
    "/echo": {"POST": echo},
    "/both": {"POST": echo, "GET": hello},
    "/monitored": {"POST": echo, "GET": hello, "HEAD": hello},
    "/none": {"GET": lambda _: Response(204)},
    "/broken": {"POST": broken},
    "/refusing": {"GET": refusing},
    "/checked": {"POST": CheckedRoute(echo, not_now)},
    "/stream": {"GET": streaming("one", "two")},
}


@contextlib.contextmanager
def serving(
    routes: dict[str, dict[str, Callable[[Request], Any]]] | None = None, **options: Any
) -> Iterator[Server]:
    """Serve these routes on loopback for the length of a test."""
    address = options.pop("address", ("127.0.0.1", 0))
    with Server(address, {**ROUTES, **(routes or {})}, **options) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Serve for all tests that need no limits of their own."""
    names = {"hosts": ["own.example"], "origins": ["Front.example"]}
    with serving(**names, any_host_paths=["/monitored"], limits=only()) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """Connect one client."""
    with Client(server) as connected:
        yield connected


def get(path: str = "/", *fields: str, method: str = "GET") -> bytes:
    """Return a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode()


def post(path: str, body: bytes, *fields: str) -> bytes:
    """Return a request with a body."""
    return get(path, f"Content-Length: {len(body)}", *fields, method="POST") + body


def chunked(path: str, body: bytes) -> bytes:
    """Return a request with a chunked body, whose bytes are given."""
    return get(path, "Transfer-Encoding: chunked", method="POST") + body


def only(**limits: float) -> Limits:
    """Return limits of which all others are too long to matter in a test."""
    never = {"head_seconds": NEVER, "body_seconds": NEVER, "idle_seconds": NEVER}
    return Limits(**{**never, "send_seconds": NEVER, **limits})  # type: ignore[arg-type]


def problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged as a warning or worse."""
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


# -- one request after the other


def test_a_connection_carries_many_requests(client: Client) -> None:
    """Ask three times on one connection."""
    for _ in range(3):
        answer = client.send(get()).answer()
        assert (answer.status, answer.body) == (200, b"hello")
        assert answer.headers["connection"] == "keep-alive"


def test_an_answer_has_these_fields_and_no_server(client: Client) -> None:
    """Disclose no version, and let no browser guess the type."""
    assert client.send(get()).answer().headers == {
        "content-type": "text/plain; charset=utf-8",
        "content-length": "5",
        "x-content-type-options": "nosniff",
        "connection": "keep-alive",
    }


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    """Send five requests of all kinds at once."""
    client.send(
        post("/echo", b"first"),
        chunked("/echo", b"6\r\nsecond\r\n0\r\n\r\n"),
        get("/stream"),
        get("/none"),
        post("/echo", b"last"),
    )
    answers = [client.answer() for _ in range(5)]
    assert [one.body for one in answers] == [b"first", b"second", b"onetwo", b"", b"last"]


def test_empty_lines_before_a_request_are_skipped(client: Client) -> None:
    """Send the line ends that some clients add after a body."""
    client.send(post("/echo", b"one"), b"\r\n\r\n", get(), b"\r\n")
    assert [client.answer().body, client.answer().body] == [b"one", b"hello"]


def test_a_client_that_wants_to_close_is_closed(client: Client) -> None:
    """Say so in the answer and do it."""
    answer = client.send(get("/", "Connection: close")).answer()
    assert (answer.headers["connection"], client.rest()) == ("close", b"")


def test_head_answers_have_the_fields_but_no_body(client: Client) -> None:
    """Ask with HEAD for what exists, what does not, and what does not take HEAD."""
    for path, status, length in (("/", 200, 5), ("/nothing", 404, 45), ("/echo", 405, 35)):
        answer = client.send(get(path, method="HEAD")).answer("HEAD")
        assert answer.status == status
        assert abs(int(answer.headers["content-length"]) - length) < 12
    assert client.send(get()).answer().body == b"hello"


def test_204_has_neither_body_nor_length(client: Client) -> None:
    """Answer an empty success."""
    answer = client.send(get("/none")).answer()
    assert (answer.status, answer.body) == (204, b"")
    assert not {"content-length", "content-type", "transfer-encoding"} & set(answer.headers)


@pytest.mark.parametrize(
    ("request_line", "status", "allow"),
    [
        (get("/nothing"), 404, None),
        (get("/echo/"), 405, "POST"),
        (get("/echo/x"), 404, None),
        (get("/ECHO"), 404, None),
        (get("/%65cho"), 404, None),
        (get("//echo"), 404, None),
        (get("/../echo"), 404, None),
        (get("/echo"), 405, "POST"),
        (get("/both", method="DELETE"), 405, "GET, POST"),
        (get("/both", method="get"), 405, "GET, POST"),
        (get("/both", method="M" * 200), 405, "GET, POST"),
    ],
)
def test_wrong_addresses_and_methods_are_refused_kindly(
    client: Client, request_line: bytes, status: int, allow: str | None
) -> None:
    """Answer 404, or 405 with Allow, in JSON, and keep the connection."""
    answer = client.send(request_line).answer()
    assert (answer.status, answer.headers.get("allow")) == (status, allow)
    assert answer.body.startswith(b'{"msg":"')
    assert client.send(get()).answer().status == 200


@pytest.mark.parametrize("framed", [True, False], ids=["length", "chunks"])
@pytest.mark.parametrize("path", ["/nothing", "/none", "/checked", "/broken", "/echo"])
def test_an_unexpected_body_is_not_the_next_request(
    client: Client, path: str, *, framed: bool
) -> None:
    """Hide a request in the body of another one; a refused body ends the connection."""
    hidden = get("/refusing")
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden)
    client.send(post(path, hidden) if framed else chunked(path, chunks), get("/none"))
    answer = client.answer()
    if path in ("/broken", "/echo"):
        assert answer.status in (200, 500)
        assert client.answer().status == 204
    else:
        assert (answer.status, answer.headers["connection"]) == (
            {"/nothing": 404, "/none": 405, "/checked": 429}[path],
            "close",
        )
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b""


def test_a_body_that_is_refused_by_its_head_is_dropped_to_its_end(client: Client) -> None:
    """Answer before a byte of it came; a client that sends all of it first reads the answer."""
    body = b"x" * (6 << 20)
    client.send(get("/checked", f"Content-Length: {len(body)}", method="POST"))
    assert client.answer().status == 429
    client.send(body)
    assert client.rest() == b""
    with contextlib.closing(http.client.HTTPConnection(*client.sock.getpeername())) as other:
        other.request("POST", "/checked", body)
        assert other.getresponse().read() == b'{"msg":"Not now."}'


def test_a_get_request_may_have_a_body(client: Client) -> None:
    """Read the body although the method needs none."""
    client.send(get("/", "Content-Length: 4"), b"body", get("/none"))
    assert [client.answer().status, client.answer().status] == [200, 204]


# -- routes that fail


def test_an_exception_in_a_route_is_a_500_that_says_nothing(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Apologise to the client, and log the type and the place in one line."""
    with Client(server) as client:
        answer = client.send(post("/broken?key=" + MARK, MARK.encode())).answer()
        assert answer.status == 500
        assert answer.body == b'{"msg":"Error occurred. Please consult support."}'
        assert answer.headers["content-type"] == "application/json"
        assert client.send(get()).answer().status == 200
    (line,) = problems(caplog)
    assert line.startswith("answering POST /broken failed: ValueError at test_server.py:")
    assert MARK not in caplog.text
    assert "Traceback" not in caplog.text


def test_a_refusal_in_a_route_is_its_answer(client: Client) -> None:
    """Send status, message and fields of the refusal."""
    answer = client.send(get("/refusing")).answer()
    assert (answer.status, answer.body) == (429, b'{"msg":"Busy."}')
    assert (answer.headers["retry-after"], answer.headers["connection"]) == ("5", "keep-alive")


def test_a_stream_that_fails_is_cut_without_its_last_chunk(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Let the client see that something is missing, and log one line."""

    def produce(writer: BodyWriter) -> None:
        writer.write("begun")
        raise ValueError(MARK)

    with serving({"/cut": {"GET": lambda _: StreamingResponse(produce, TEXT)}}) as server:
        with Client(server) as client:
            data = client.send(get("/cut")).rest()
        assert data.endswith(b"\r\n\r\n5\r\nbegun\r\n")
        (line,) = problems(caplog)
    assert line.startswith("a connection failed: ValueError at test_server.py:")
    assert MARK not in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_without_a_free_thread_clients_are_told_so(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answer 503 without a thread or memory for one, also to clients that send later."""

    def refuse(*_: object) -> None:
        raise error

    with serving() as server, contextlib.ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(server_module, "start_new_thread", refuse)
            clients = [stack.enter_context(Client(server)) for _ in range(20)]
            until(lambda: len(server.flush_thread._lingering) == len(clients))
        request = post("/echo", b"x" * 100_000)
        for client in clients:
            client.send(request[:100])
            client.send(request[100:])
            assert client.answer().status == 503
            assert client.rest() == b""
        assert len(server.flush_thread._lingering) == len(clients)
        for client in clients:
            client.sock.close()
        until(lambda: not server.connections)
        with Client(server) as client:
            assert client.send(get()).answer().status == 200


@pytest.mark.skipif(not acceptor.is_possible(), reason="needs the process that accepts")
def test_the_process_that_accepts_ends_for_the_thread_of_a_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Refuse threads while it runs: it is a help, and a client that is served the purpose."""
    start = server_module.start_new_thread

    def limited(function: Callable[..., None], args: tuple[Any, ...]) -> int:
        if server.listener._process is not None:
            raise RuntimeError("can't start new thread")
        return start(function, args)

    with serving() as server:
        server.delegate("/health", Response(204))
        until(lambda: server.listener._process and server.listener._process.started)
        monkeypatch.setattr(server_module, "start_new_thread", limited)
        with Client(server) as client:
            assert client.send(get()).answer().status == 200
        with Client(server) as client:  # and later ones are accepted here
            assert client.send(get()).answer().status == 200
    assert "ended for lack of threads" in caplog.text


def test_without_a_free_thread_idle_connections_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Give the server three threads: neither silent clients nor slow bodies keep it from us."""
    free = threading.Semaphore(3)
    start = server_module.start_new_thread

    def limited(function: Callable[..., None], args: tuple[Any, ...]) -> int:
        if not free.acquire(blocking=False):
            raise RuntimeError("can't start new thread")

        def run(*args: Any) -> None:
            function(*args)
            free.release()

        return start(run, args)

    monkeypatch.setattr(server_module, "start_new_thread", limited)
    monkeypatch.setattr(server_module, "ACCEPT_BACKOFF", TIMEOUT)
    with serving() as server, contextlib.ExitStack() as stack:
        for number in range(20):
            client = stack.enter_context(Client(server))
            if number % 2:
                client.send(get("/echo", "Content-Length: 9", method="POST"))
                until(lambda: server.connections.count(State.RECEIVING))
        client = stack.enter_context(Client(server))
        assert client.send(post("/echo", b"hello")).answer().body == b"hello"


@pytest.mark.parametrize(
    "request_",
    [
        get("/", "Connection: close"),
        get("/nothing", "Connection: close"),
        get("/stream", "Connection: close"),
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /stream HTTP/1.0\r\n\r\n",
        get("/echo", "Content-Length: 999999999", method="POST"),
        get("/nothing", "Content-Length: 100000", method="POST"),
        get("/", "Content-Length: 100000", method="PUT"),
        get("/echo", "Content-Length: 100000", "Origin: http://a.example", method="POST"),
        get("/", "Host: a.example"),
        b"nonsense\r\n\r\n",
    ],
    ids=lambda request: request.decode()[:60],
)
def test_what_a_client_sends_too_much_takes_no_answer_away(
    client: Client, server: Server, request_: bytes
) -> None:
    """Leave bytes unread behind the last request, and read the whole answer to its end."""
    client.send(request_ + b"x" * 1000)
    until(lambda: len(server.flush_thread._lingering))
    client.send(b"x" * 1000)
    answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 ")
    client.sock.shutdown(socket.SHUT_WR)
    until(lambda: not server.connections)


def test_a_refused_client_that_stays_holds_no_thread(server: Server) -> None:
    """Refuse clients that go on sending: their connections are idle ones without threads."""
    threads = _thread._count()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(10)]
        for client in clients:
            client.send(get("/nothing", "Content-Length: 100000", method="POST") + b"x" * 5000)
            assert client.answer().status == 404
        until(lambda: server.connections.count(State.LINGERING) == len(clients))
        until(lambda: _thread._count() <= threads)
        assert server.connections.drop_oldest(State.LINGERING)
        until(lambda: len(server.connections) == len(clients) - 1)
        for client in clients:
            with contextlib.suppress(ConnectionError):  # of the one that was dropped
                client.send(b"x" * 95_000)
        until(lambda: not server.connections)


def test_an_unexpected_error_of_accept_is_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without memory now and then the process serves, ..."""
    errors = iter([MemoryError(), MemoryError()])
    accept = Server.get_request

    def failing(server: Server) -> tuple[socket.socket, Any]:
        for error in errors:
            raise error
        return accept(server)

    monkeypatch.setattr(Server, "get_request", failing)
    with serving() as server, Client(server) as client:
        assert client.send(get()).answer().status == 200
    assert caplog.text.count("the thread httpd failed: MemoryError") == 2


def test_a_process_that_cannot_accept_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """... and without any for long it ends."""
    reasons: list[str] = []
    monkeypatch.setattr(supervision, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(supervision, "_end_process", reasons.append)

    def failing(_: Server) -> tuple[socket.socket, Any]:
        raise MemoryError

    monkeypatch.setattr(Server, "get_request", failing)
    with serving() as server, Client(server):
        until(lambda: reasons)
    assert reasons == [f"the thread httpd failed {supervision.ATTEMPTS} times in a row"]


# -- doubtful requests


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: localhost", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y\r\n z\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (get("/", *["X: y"] * 100), 431),
        (get("/", "X: " + "y" * (32 << 10)), 431),
        (b"GET /" + b"a" * (40 << 10), 431),
        (b"G" * (64 << 10), 431),
        (b"\x00" * 100 + b"\r\n\r\n", 400),
        (get("/", "Transfer-Encoding: gzip"), 501),
        (get("/", "Transfer-Encoding: chunked", "Content-Length: 3") + b"0\r\n\r\n", 400),
        (post("/echo", b"12345", "Content-Length: 4"), 400),
    ],
)
def test_a_doubtful_request_is_answered_and_ends_the_connection(
    client: Client, raw: bytes, status: int
) -> None:
    """Answer in JSON and never look at what follows; no bytes are reset away."""
    client.send(raw)
    if status != 431:
        client.send(get("/refusing"))
    answer = client.answer()
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert answer.body.startswith(b'{"msg":"')
    client.sock.shutdown(socket.SHUT_WR)
    assert client.rest() == b""


@pytest.mark.parametrize(
    "raw",
    [
        f"{MARK} / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET {MARK} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET /{MARK}?{MARK} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET / {MARK}/1.1\r\nHost: localhost\r\n\r\n",
        f"GET / HTTP/9.9 {MARK}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {MARK}.example\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {MARK}\r\nHost: {MARK}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://{MARK}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: localhost\r\n{MARK} : {MARK}\r\n\r\n",
        f"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MARK}\r\n\r\n",
        f"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: {MARK}\r\n\r\n",
        f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n{MARK}",
        f"POST /broken HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n{MARK}",
    ],
)
def test_errors_repeat_nothing_of_the_input(client: Client, raw: str) -> None:
    """Reflect neither method, path, fields nor body, and no HTML."""
    client.send(raw.encode())
    client.sock.shutdown(socket.SHUT_WR)
    answer = client.rest()
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert MARK.encode() not in answer
    assert b"<" not in answer
    assert len(answer) < 500


# -- bodies


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"2\r\nhe\r\n00000003;x=y\r\nllo\r\n000;last\r\n\r\n", b"hello"),
        (b"a\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n0\r\n\r\n"),
        (b"A \r\n0123456789\r\n0\r\nTrailer: one\r\nAnother: two\r\n\r\n", b"0123456789"),
        (b"1\r\n\n\r\n0\r\n\r\n", b"\n"),
        (b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n", b"x" * 2000),
    ],
)
def test_a_chunked_body_is_put_together(client: Client, wire: bytes, body: bytes) -> None:
    """Read it at once, then byte for byte."""
    assert client.send(chunked("/echo", wire)).answer().body == body
    for at in range(len(wire := chunked("/echo", wire[:200] if len(wire) < 200 else b"0\r\n\r\n"))):
        client.send(wire[at : at + 1])
    assert client.answer().status == 200


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"\r\n", 400),
        (b"5\nhello\r\n0\r\n\r\n", 400),
        (b"0x5\r\nhello\r\n0\r\n\r\n", 400),
        (b"+5\r\nhello\r\n0\r\n\r\n", 400),
        (b"-1\r\nhello\r\n0\r\n\r\n", 400),
        (b" 5\r\nhello\r\n0\r\n\r\n", 400),
        (b"5_0\r\nhello\r\n0\r\n\r\n", 400),
        (b"zz\r\nhello\r\n0\r\n\r\n", 400),
        (b"000000005\r\nhello\r\n0\r\n\r\n", 400),
        (b"5\r\nhelloX\n0\r\n\r\n", 400),
        (b"5\r\nhello!\r\n0\r\n\r\n", 400),
        (b"5\r\nhello\n\r0\r\n\r\n", 400),
        (b"5;" + b"x" * 5000 + b"\r\nhello\r\n0\r\n\r\n", 400),
        (b"5;" + b"x" * 5000, 400),
        (b"5\r\r\nhello\r\n0\r\n\r\n", 400),
        (b"5\rhello\r\n0\r\n\r\n", 400),
        (b"5;a\nb\r\nhello\r\n0\r\n\r\n", 400),
        (b"5;a\rb\r\nhello\r\n0\r\n\r\n", 400),
        (b"5;a\x00b\r\nhello\r\n0\r\n\r\n", 400),
        (b"5;a\nhello\r\n0\r\n\r\n", 400),
        (b"5\r\nhello\n0\r\n\r\n", 400),
        (b"5\r\nhello\r0\r\n\r\n", 400),
        (b"5\r\nhello\r\n0\n\r\n", 400),
        (b"0\r\n\n\r\n", 400),
        (b"0\r\n\r\r\n\r\n", 400),
        (b"0\r\nX: y\n\r\n", 400),
        (b"0\r\nX: y\nZ: y\r\n\r\n", 400),
        (b"0\r\nX: y\rZ: y\r\n\r\n", 400),
        (b"0\r\nX: y\r\r\n\r\n", 400),
        (b"0\r\nX: \x00\r\n\r\n", 400),
        (b"0\r\nno colon\r\n\r\n", 400),
        (b"0\r\nX : y\r\n\r\n", 400),
        (b"0\r\nX: y\r\n z\r\n\r\n", 400),
        (b"0\r\nX: " + b"y" * 5000 + b"\r\n\r\n", 400),
        (b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"ffffffff\r\n", 413),
        (b"800001\r\n", 413),
        (b"400000\r\n" + b"x" * (4 << 20) + b"\r\n400001\r\n", 413),
        (b"1\r\nx\r\n" * ((64 << 10) + 1), 413),
    ],
)
def test_a_doubtful_chunked_body_is_refused(client: Client, wire: bytes, status: int) -> None:
    """Refuse and close; what follows is never read as a request."""
    client.send(chunked("/echo", wire))
    assert client.answer().status == status
    client.sock.shutdown(socket.SHUT_WR)
    assert client.rest() == b""


def test_a_large_body_is_refused_by_its_header_alone(client: Client) -> None:
    """Answer 413 before a single byte of the body came."""
    answer = client.send(get("/echo", f"Content-Length: {64 << 20}", method="POST")).answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert answer.body == b'{"msg":"The request is larger than 8 MB."}'


@pytest.mark.parametrize("more", [[], ["Expect: 100-continue"]])
def test_a_client_that_is_still_sending_can_read_the_413(client: Client, more: list[str]) -> None:
    """Send half a megabyte of a refused body, then read: the answer was not reset away."""
    client.send(get("/echo", f"Content-Length: {64 << 20}", *more, method="POST"))
    for _ in range(8):
        client.send(b"x" * 65536)
    client.sock.shutdown(socket.SHUT_WR)
    data = client.rest()
    assert data.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in data


def test_a_refused_client_that_stays_is_closed_without_an_error_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stop reading from a refused client at the limit, and log nothing."""
    monkeypatch.setattr(connection, "LINGER_SECONDS", SHORT)
    with serving() as server, Client(server) as client:
        client.send(get("/echo", "Content-Length: 999999999", method="POST"))
        assert client.answer().status == 413
        until(lambda: not server.connections)
        assert client.rest() == b""
        assert problems(caplog) == []


@pytest.mark.parametrize(
    ("head", "body", "peak"),
    [
        (f"Content-Length: {64 << 20}", b"x" * 65536, 1 << 20),
        ("Transfer-Encoding: chunked", b"10000\r\n" + b"x" * 65536 + b"\r\n", 4 << 20),
    ],
)
def test_64_mb_take_no_memory(head: str, body: bytes, peak: int) -> None:
    """Send 64 MB against a limit of one."""
    with serving(limits=Limits(body_bytes=1 << 20)) as server, Client(server) as client:
        gc.collect()
        tracemalloc.start()
        try:
            client.send(get("/echo", head, method="POST"))
            with contextlib.suppress(ConnectionError):
                for _ in range(1024):
                    client.send(body)
            assert client.answer().status == 413
            assert tracemalloc.get_traced_memory()[1] < peak
        finally:
            tracemalloc.stop()


def test_a_body_of_exactly_the_limit_is_read_and_one_byte_more_is_not() -> None:
    """Count the body's bytes."""
    with serving(limits=Limits(body_bytes=1000)) as server:
        for size, status in ((1000, 200), (1001, 413)):
            with Client(server) as client:
                assert client.send(post("/echo", b"x" * size)).answer().status == status
            halves = b"1f4\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (
                *(b"x" * 500, size - 500, b"x" * (size - 500)),
            )
            with Client(server) as client:
                assert client.send(chunked("/echo", halves)).answer().status == status


def test_a_client_that_expects_it_is_told_to_continue(client: Client) -> None:
    """Send 100 once the head is good, then the answer."""
    for head, body in (("Content-Length: 4", b"body"), *[("Transfer-Encoding: chunked", None)]):
        client.send(get("/echo", head, "Expect: 100-continue", method="POST"))
        assert client.answer().status == 100
        client.send(body or b"4\r\nbody\r\n0\r\n\r\n")
        assert client.answer().body == b"body"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post("/echo", b"already here", "Expect: 100-continue"), 200),
        (get("/echo", "Content-Length: 0", "Expect: 100-continue", method="POST"), 200),
        (get("/", "Expect: 100-continue"), 200),
        (b"POST /echo HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\nx", 200),
        (get("/echo", "Content-Length: 99999999", "Expect: 100-continue", method="POST"), 413),
        (get("/echo", "Content-Length: 1", "Expect: 100-continue", "Origin: null"), 403),
        (get("/checked", "Content-Length: 1", "Expect: 100-continue", method="POST"), 429),
    ],
)
def test_no_other_client_is_told_to_continue(
    client: Client, request_bytes: bytes, status: int
) -> None:
    """Give the final answer first when no body is missing, or none will be read."""
    assert client.send(request_bytes).answer().status == status


# -- other ways to talk


@pytest.mark.parametrize("fields", [b"", b"Connection: keep-alive\r\n", b"Host: localhost\r\n"])
def test_an_http_1_0_client_is_answered_and_closed(client: Client, fields: bytes) -> None:
    """Need no Host, and end the body with the connection."""
    answer = client.send(b"GET / HTTP/1.0\r\n" + fields + b"\r\n").answer()
    assert (answer.body, answer.headers["connection"], client.rest()) == (b"hello", "close", b"")


def test_an_http_1_0_client_gets_a_stream_without_chunks(client: Client) -> None:
    """Send the text and close."""
    data = client.send(b"GET /stream HTTP/1.0\r\n\r\n").rest()
    assert data.endswith(b"\r\n\r\nonetwo")
    assert b"chunked" not in data


def test_a_stream_has_these_fields_and_keeps_the_connection(client: Client) -> None:
    """Stream twice on one connection."""
    for _ in range(2):
        answer = client.send(get("/stream")).answer()
        assert answer.body == b"onetwo"
        assert answer.headers == {
            "content-type": "text/plain; charset=utf-8",
            "cache-control": "no-store",
            "transfer-encoding": "chunked",
            "x-content-type-options": "nosniff",
            "connection": "keep-alive",
        }


def test_a_client_that_closes_its_half_still_gets_the_answer(client: Client) -> None:
    """Answer, then end."""
    client.send(post("/echo", b"half"))
    client.sock.shutdown(socket.SHUT_WR)
    assert client.answer().body == b"half"
    assert client.rest() == b""


@pytest.mark.parametrize("part", [b"", b"GE", get()[:-2], post("/echo", b"body")[:-1]])
def test_a_client_that_leaves_in_the_middle_is_no_error(
    server: Server, caplog: pytest.LogCaptureFixture, part: bytes
) -> None:
    """Hang up in the head or the body, politely or with a reset."""
    for linger in (b"\0\0\0\0\0\0\0\0", b"\1\0\0\0\0\0\0\0"):
        with Client(server) as client:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.send(part)
    until(lambda: not server.connections)
    assert problems(caplog) == []


# -- limits of time


def test_the_limits_are_those_that_the_documents_promise() -> None:
    """Pin the numbers that all other tests make smaller."""
    limits = Limits()
    assert (limits.head_seconds, limits.body_seconds) == (10, 20)
    assert (limits.idle_seconds, limits.send_seconds) == (8, 10)
    assert (limits.body_bytes, limits.connections) == (8 << 20, 1024)


def test_a_silent_client_is_told_and_closed() -> None:
    """Limit the seconds of a head."""
    with serving(limits=only(head_seconds=SHORT)) as server:
        started = time.monotonic()
        with Client(server) as client:
            assert client.answer().status == 408
            assert time.monotonic() - started >= SHORT
            assert client.ends()


@pytest.mark.parametrize(
    ("limits", "start", "drip"),
    [
        (only(head_seconds=SHORT), b"", b"\r\n"),
        (only(head_seconds=SHORT), b"", b"G"),
        (only(head_seconds=SHORT), get()[:-2] + b"X: ", b"y"),
        (only(head_seconds=SHORT), get() + b"G", b"E"),
        (only(body_seconds=SHORT), get("/echo", "Content-Length: 9999", method="POST"), b"b"),
        (only(body_seconds=SHORT), chunked("/echo", b""), b"1\r\nx\r\n"),
        (only(body_seconds=SHORT), chunked("/echo", b"5;"), b"x"),
        (only(body_seconds=SHORT), chunked("/echo", b"0\r\nX: "), b"y"),
    ],
)
def test_a_dripping_client_is_closed_at_an_absolute_deadline(
    limits: Limits, start: bytes, drip: bytes
) -> None:
    """Send a little, again and again: no byte extends the deadline."""
    started, answer = time.monotonic(), b""
    with serving(limits=limits) as server, Client(server) as client:
        client.send(start)
        client.sock.settimeout(0.02)
        while b"408 Request Timeout" not in answer:
            assert time.monotonic() - started < TIMEOUT
            with contextlib.suppress(TimeoutError):
                answer += client.sock.recv(65536)
                continue
            client.send(drip)
        assert time.monotonic() - started >= SHORT


@pytest.mark.parametrize(
    "start",
    [get("/echo", "Content-Length: 10", method="POST") + b"half", chunked("/echo", b"5\r\nhel")],
)
def test_a_client_that_stops_in_its_body_is_told_and_closed(start: bytes) -> None:
    """Limit the seconds of a body."""
    with serving(limits=only(body_seconds=SHORT)) as server, Client(server) as client:
        answer = client.send(start).answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert client.ends()


def test_an_idle_connection_is_closed_without_a_word() -> None:
    """Let a kept connection wait for the idle limit, not for that of heads."""
    with serving(limits=only(idle_seconds=SHORT)) as server, Client(server) as client:
        started = time.monotonic()
        assert client.send(get()).answer().status == 200
        assert client.rest() == b""
        assert time.monotonic() - started >= SHORT


def test_a_client_that_stops_reading_a_plain_answer_is_disconnected() -> None:
    """Ask for more than the sockets hold, and read nothing."""
    large: dict[str, Any] = {"/large": {"GET": lambda _: Response(200, b"x" * (32 << 20), TEXT)}}
    with serving(large, limits=only(send_seconds=SHORT)) as server, Client(server) as client:
        client.send(get("/large"))
        assert client.sock.recv(1)
        until(lambda: not server.connections)


# -- limits of number


def test_at_the_cap_the_oldest_idle_connection_makes_room() -> None:
    """Drop neither the newest nor a busy one."""
    begun, release = threading.Event(), threading.Event()

    def two_are_idle() -> bool:
        return server.connections.count(State.IDLE) == 2

    def slow(_: Request) -> Response:
        begun.set()
        release.wait(TIMEOUT)
        return Response(200, b"slow", TEXT)

    with (
        serving({"/slow": {"GET": slow}}, limits=only(connections=3)) as server,
        Client(server) as busy,
        Client(server) as oldest,
        Client(server) as older,
    ):
        busy.send(get("/slow"))
        assert begun.wait(TIMEOUT)
        for client in (oldest, older):
            assert client.send(get()).answer().status == 200
            until(two_are_idle)
        with Client(server) as newest:
            assert oldest.ends()
            assert newest.send(get()).answer().status == 200
            assert older.send(get()).answer().status == 200
            release.set()
            assert busy.answer().body == b"slow"


def test_at_the_cap_a_half_sent_head_is_idle_too() -> None:
    """Drop a connection that has sent a part of a head at the limit of connections."""
    with (
        serving(limits=only(connections=1)) as server,
        Client(server) as slow,
        contextlib.ExitStack() as stack,
    ):
        slow.send(b"GET / HT")
        until(lambda: server.connections)
        newest = stack.enter_context(Client(server))
        assert newest.send(get()).answer().status == 200
        assert slow.ends()


def test_among_busy_connections_the_newest_is_still_answered() -> None:
    """Never drop the newest: it may be the Kernel's, which forgets a silent executor."""
    with serving(limits=only(connections=2)) as server, contextlib.ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(Client(server))
            client.send(get("/echo", "Content-Length: 10", "Expect: 100-continue", method="POST"))
            assert client.answer().status == 100
        newest = stack.enter_context(Client(server))
        assert newest.send(get()).answer().status in (200, 503)


def test_a_burst_of_connections_stays_under_the_cap() -> None:
    """Open many connections faster than dropped ones can end."""
    before = threading.active_count()
    with serving(limits=only(connections=20)) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(200)]
        assert clients[-1].send(get()).answer().status == 200
        until(lambda: len(server.connections) <= 20)
        until(lambda: threading.active_count() < before + 40)


def test_no_more_sockets_are_open_than_the_limit_says() -> None:
    """Open many silent connections at once, and a last one that is answered."""
    most = []

    def look(_: Request) -> Response:
        most.append(len(server.connections))
        return Response(204)

    limits = only(connections=6, sockets=8)
    with serving({"/": {"GET": look}}, limits=limits) as server:
        for _ in range(5):
            with contextlib.ExitStack() as stack:
                for _ in range(30):
                    stack.enter_context(Client(server))
                    most.append(len(server.connections))
                client = stack.enter_context(Client(server))
                assert client.send(get()).answer().status == 204
    assert max(most) <= 8


def test_with_all_sockets_busy_a_client_is_told_so() -> None:
    """Answer 503 while nothing can be dropped, and normally once something ended."""
    release = threading.Event()

    def slow(_: Request) -> Response:
        release.wait(TIMEOUT)
        return Response(200, b"slow", TEXT)

    limits = only(connections=2, sockets=3)
    with serving({"/": {"GET": slow}}, limits=limits) as server, contextlib.ExitStack() as stack:
        busy: list[Client] = []
        while len(busy) < 3:
            busy.append(stack.enter_context(Client(server)).send(get()))
            until(lambda: server.connections.count(State.BUSY) == len(busy))
        for _ in range(3):
            with Client(server) as client:
                client.send(get())
                assert client.answer().status == 503
                assert client.rest() == b""
        release.set()
        assert [client.answer().body for client in busy] == [b"slow"] * 3
        with Client(server) as client:
            assert client.send(get()).answer().body == b"slow"


def test_with_all_sockets_taken_unfinished_requests_make_room() -> None:
    """Fill the limit with bodies that never end; a chat is answered all the same."""
    limits = only(connections=2, sockets=3)
    with serving(limits=limits) as server, contextlib.ExitStack() as stack:
        slow: list[Client] = []
        while len(slow) < 3:
            slow.append(stack.enter_context(Client(server)))
            slow[-1].send(get("/echo", "Content-Length: 9", method="POST"))
            until(lambda: server.connections.count(State.RECEIVING) == len(slow))
        with Client(server) as client:
            assert client.send(post("/echo", b"hello")).answer().body == b"hello"
        assert slow[0].ends()
        assert slow[1].send(b"123456789").answer().status == 200


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs POSIX limits")
def test_without_free_descriptors_the_server_neither_spins_nor_dies() -> None:
    """Lower the limit of open files, fill it with busy connections, and look at the clock."""
    program = """
import resource, sys, time
from kuwa_min.httpd.messages import Response
from kuwa_min.httpd.server import Server
with Server(("127.0.0.1", 0), {"/": {"POST": lambda _: Response(204)}}) as server:
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
    print(server.port, flush=True)
    for _ in sys.stdin:
        print(time.process_time(), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None

        def used() -> float:
            process.stdin.write("\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        try:
            address = ("127.0.0.1", int(process.stdout.readline()))
            request = get("/", "Content-Length: 1", method="POST")
            with contextlib.ExitStack() as stack:
                held = []
                for _ in range(40):
                    sock = stack.enter_context(socket.create_connection(address, TIMEOUT))
                    sock.sendall(request)
                    held.append(sock)
                before = used()
                held[-1].settimeout(0.5)
                with pytest.raises(TimeoutError):
                    held[-1].recv(1)
                assert used() - before < 0.2
            with socket.create_connection(address, TIMEOUT) as sock:
                sock.sendall(request + b"x")
                assert sock.recv(100).startswith(b"HTTP/1.1 204 ")
        finally:
            process.stdin.close()
        assert process.wait(TIMEOUT) == 0
        assert process.stderr.read() == ""


def test_200_requests_at_once_take_hardly_longer_than_one_after_the_other() -> None:
    """Connect and ask 200 times before reading a single answer; a lost SYN would cost a second."""

    def ask(server: Server, count: int) -> float:
        with contextlib.ExitStack() as stack:
            started = time.monotonic()
            clients = [stack.enter_context(Client(server)) for _ in range(count)]
            for client in clients:
                client.send(get("/none"))
            assert {client.answer().status for client in clients} == {204}
            return time.monotonic() - started

    with serving() as server:
        until(lambda: ask(server, 200) < sum(ask(server, 1) for _ in range(200)) + 0.5)


def test_500_connections_leave_nothing_behind(server: Server) -> None:
    """Count threads and descriptors before and after."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    until(lambda: not server.connections)
    threads, files = threading.active_count(), len(list(descriptors.iterdir()))
    requests = [get("/stream"), post("/echo", b"x"), get("/nothing"), b"nonsense\r\n\r\n", b""]
    for number in range(500):
        with Client(server) as client:
            client.send(requests[number % 5])
            if number % 5 < 4 and number % 3:
                client.answer()
    until(lambda: not server.connections)
    until(lambda: threading.active_count() <= threads)
    until(lambda: len(list(descriptors.iterdir())) <= files)  # the last threads are closing theirs
    assert not server.flush_thread._blocked
    assert not server.flush_thread._requested
    assert len(server.flush_thread._selector.get_map()) <= 2  # its own wakeup pipe and epoll object


# -- who may ask


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:8080", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:9000", 200),
        ("192.168.1.20:80", 200),
        ("[::1]", 200),
        ("[2001:db8::1]:8080", 200),
        ("own.example", 200),
        ("OWN.example:1", 200),
        ("front.example", 200),
        ("", 421),
        ("rebinding.example", 421),
        ("rebinding.example:80", 421),
        ("own.example.rebinding.example", 421),
        ("xown.example", 421),
        ("localhost.", 421),
        ("127.0.0.1.nip.example", 421),
        ("127.0.0.1:80:80", 421),
        ("127.0.0.1@rebinding.example", 421),
        ("127.0.0.1, rebinding.example", 421),
        ("127.1", 421),
        ("0x7f000001", 421),
        ("2130706433", 421),
    ],
)
def test_a_get_is_answered_under_names_that_are_ours(
    server: Server, host: str, status: int
) -> None:
    """Refuse the names by which a DNS-rebinding page calls, in both forms of a target."""
    for raw in (
        f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n",
        f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n",
        f"GET http://{host}/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        if " " in host and "http" in raw:
            continue
        with Client(server) as client:
            assert client.send(raw.encode()).answer().status == status


REBOUND = "rebinding.example:9000"  # a name that an attacker lets point here
CHROME = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36",
    "Accept: */*",
    "Accept-Encoding: gzip, deflate",
    "Accept-Language: en-US,en;q=0.9",
)
FIREFOX = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "Accept: */*",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate",
)
OLD = ("User-Agent: Mozilla/5.0 (Windows NT 6.1; Trident/7.0; rv:11.0) like Gecko", "Accept: */*")
KERNEL = ("User-Agent: GuzzleHttp/7", "Accept-Language: zh_tw", "X-Kuwa-User-Id: 3")
MONITORS = (
    ("User-Agent: Prometheus/2.53.0", "Accept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1"),
    ("User-Agent: kube-probe/1.30", "Accept: */*"),
    ("User-Agent: Python/3.11 aiohttp/3.14.5", "Accept: */*"),
    ("User-Agent: curl/8.5.0", "Accept: */*"),
    (),
)


def named(method: str, path: str, host: str, *fields: str) -> bytes:
    """Return a request under a name, with an empty body."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "Content-Length: 0", "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize("host", ["kernel:9000", "kuwa.example", "rebinding.example", ""])
def test_a_post_is_answered_under_any_name(client: Client, host: str) -> None:
    """The Kernel forwards the name by which its client calls it."""
    assert client.send(named("POST", "/echo", host, *KERNEL)).answer().status == 200
    assert client.send(named("POST", "/echo/", host)).answer().status == 200


@pytest.mark.parametrize("fields", MONITORS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_monitors_are_answered_under_any_name(
    client: Client, method: str, fields: tuple[str, ...]
) -> None:
    """By a service's name, as Prometheus and health checks ask; on paths that are meant for it."""
    for path in ("/monitored", "/monitored/"):
        raw = named(method, path, "executor:8080", *fields)
        assert client.send(raw).answer(method).status == 200
    assert client.send(named("GET", "/both", "executor:8080", *fields)).answer().status == 421


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("GET", CHROME),  # without Sec-Fetch-*: the page's address is neither HTTPS nor localhost
        ("POST", (*CHROME, f"Origin: http://{REBOUND}")),
        ("GET", (*CHROME, "Referer: http://rebinding.example:9000/", "Cache-Control: no-cache")),
        ("GET", FIREFOX),
        ("POST", (*FIREFOX, f"Origin: http://{REBOUND}", "Content-Type: text/plain")),
        ("GET", ("User-Agent: Prometheus/2.53.0", *FIREFOX[1:])),  # which a page may say
        ("GET", OLD),
        ("POST", OLD),  # no Origin with a page's own address
        ("POST", (*OLD, "Origin: null")),
        ("GET", ("Accept-Language: *",)),
        ("GET", (*CHROME, "Sec-Fetch-Site: same-origin")),  # over TLS
        ("POST", (*CHROME, f"Origin: https://{REBOUND}", "Sec-Fetch-Site: same-origin")),
    ],
)
@pytest.mark.parametrize("path", ["/both", "/monitored"])
def test_a_page_on_a_rebound_name_reaches_nothing(
    client: Client, path: str, method: str, fields: tuple[str, ...]
) -> None:
    """Its requests are of one origin to the browser, so only the name gives it away."""
    assert client.send(named(method, path, REBOUND, *fields)).answer().status == 421


@pytest.mark.parametrize("browser", [CHROME, FIREFOX])
@pytest.mark.parametrize("site", [(), ("Sec-Fetch-Site: cross-site",)])
@pytest.mark.parametrize("path", ["/both", "/monitored"])
def test_a_page_of_another_site_posts_nothing(
    client: Client, path: str, site: tuple[str, ...], browser: tuple[str, ...]
) -> None:
    """Forms and fetch alike carry the page's Origin."""
    fields = (*browser, *site, "Origin: http://evil.example")
    assert client.send(named("POST", path, "127.0.0.1:9000", *fields)).answer().status == 403


@pytest.mark.parametrize("browser", [CHROME, FIREFOX, OLD])
def test_a_page_of_ours_gets_and_posts(client: Client, browser: tuple[str, ...]) -> None:
    """By an address, by localhost and by a name that is ours."""
    for host in ("127.0.0.1:9000", "localhost:9000", "own.example"):
        assert client.send(named("GET", "/both", host, *browser)).answer().status == 200
        own = (*browser, f"Origin: http://{host}")
        assert client.send(named("POST", "/both", host, *own)).answer().status == 200


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: rebinding.example\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://rebinding.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_a_request_needs_exactly_one_host(client: Client, raw: bytes, status: int) -> None:
    """Refuse a missing and a doubled Host; HTTP/1.0 has none."""
    assert client.send(raw).answer().status == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["Origin: http://localhost"], 200),
        (["Origin: HTTP://LOCALHOST"], 200),
        (["Origin: https://front.example"], 200),
        (["Origin: https://front.example:8443"], 200),
        (["Origin: http://localhost", "Sec-Fetch-Site: same-origin"], 200),
        (["Sec-Fetch-Site: same-origin"], 200),
        (["Sec-Fetch-Site: none"], 200),
        (["Origin: http://localhost:81"], 403),
        (["Origin: http://127.0.0.1"], 403),
        (["Origin: http://evil.example"], 403),
        (["Origin: http://localhost.evil.example"], 403),
        (["Origin: http://evil.example/front.example"], 403),
        (["Origin: http://own.example"], 403),
        (["Origin: null"], 403),
        (["Origin:"], 403),
        (["Origin: localhost"], 403),
        (["Sec-Fetch-Site: cross-site"], 403),
        (["Sec-Fetch-Site: same-site"], 403),
        (["Origin: http://localhost", "Origin: http://evil.example"], 400),
        (["Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"], 400),
    ],
)
def test_pages_of_other_sites_are_refused(client: Client, fields: list[str], status: int) -> None:
    """Accept our own pages and those of allowed hosts; never send a CORS field."""
    answer = client.send(get("/", *fields)).answer()
    assert answer.status == status
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_page_on_our_own_port_is_ours(client: Client) -> None:
    """Compare the origin with the Host, port included."""
    own = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nOrigin: http://127.0.0.1:%d\r\n\r\n"
    assert client.send(own % 9001).answer().status == 200
    assert client.send(own % 9002).answer().status == 403


def test_a_foreign_page_is_refused_before_its_body_is_read(client: Client) -> None:
    """Answer from the head alone, and call no route."""
    head = get("/broken", "Origin: http://evil.example", "Content-Length: 9", method="POST")
    assert client.send(head).answer().status == 403


# -- where we listen


def test_a_port_in_use_is_a_start_error_that_names_it(server: Server) -> None:
    """Say host and port, and leave nothing open."""
    with pytest.raises(StartError, match=rf"127\.0\.0\.1 port {server.port}: Address already"):
        Server(("127.0.0.1", server.port), ROUTES)
    gc.collect()


@pytest.mark.parametrize("address", [("192.0.2.1", 0), ("127.0.0.1", 65536)])
def test_an_impossible_address_is_a_start_error_that_names_it(address: tuple[str, int]) -> None:
    """Say host and port for every reason."""
    with pytest.raises(StartError, match=rf"cannot listen on {address[0]} port {address[1]}: "):
        Server(address, ROUTES)
    gc.collect()


def test_an_ipv6_address_works() -> None:
    """Listen on ::1."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(serving(address=("::1", 0)))
        except StartError:
            pytest.skip("this machine has no IPv6")
        with Client(server) as client:
            assert client.send(get()).answer().body == b"hello"


def test_the_end_closes_idle_connections() -> None:
    """Leave no kept and no silent connection to its time limit when the server ends."""
    with contextlib.ExitStack() as stack:
        with serving(limits=only()) as server:
            kept, silent = (stack.enter_context(Client(server)) for _ in range(2))
            assert kept.send(get()).answer().status == 200
            until(lambda: len(server.connections) == 2)
        for client in (kept, silent):
            assert client.ends()


# -- TLS


@dataclass(frozen=True)
class Trust:
    """Both ends of TLS: what the server shows and what the client believes."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    """Make a certificate for localhost with the openssl command."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(
            ["openssl", "req", "-x509", *options, *names, *files], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("needs the openssl command")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return Trust(context, ssl.create_default_context(cafile=str(certificate)))


def test_tls_carries_requests_bodies_and_streams(trust: Trust) -> None:
    """Ask on one connection for everything, pipelined and large."""
    large = "0123456789abcdef" * 65536
    routes: dict[str, Any] = {"/large": {"GET": streaming(*[large[:65536]] * 16)}}
    with serving(routes, tls=trust.server) as server, Client(server, trust.client) as client:
        assert client.send(post("/echo", large.encode())).answer().body == large.encode()
        client.send(get("/large"), get("/stream"), get())
        assert client.answer().body == large.encode()
        assert client.answer().body == b"onetwo"
        assert client.answer().body == b"hello"


def test_a_request_during_a_tls_stream_is_answered_after_it(trust: Trust) -> None:
    """Send the next request while the stream is silent; not a byte of it is lost."""
    asked, writers = threading.Event(), list[BodyWriter]()

    def produce(writer: BodyWriter) -> None:
        writers.append(writer)
        writer.write("begun")
        asked.wait(TIMEOUT)
        writer.finish()

    routes: dict[str, Any] = {"/wait": {"GET": lambda _: StreamingResponse(produce, TEXT)}}
    with serving(routes, tls=trust.server) as server, Client(server, trust.client) as client:
        client.send(get("/wait"))
        assert client.until(b"5\r\nbegun\r\n")
        client.send(post("/echo", b"next" * 5000))
        until(lambda: not writers[0].read_interest)
        asked.set()
        assert client.until(b"0\r\n\r\n") == b""
        assert client.answer().body == b"next" * 5000


def test_a_refused_tls_client_can_read_the_answer_while_it_sends(trust: Trust) -> None:
    """Drop its records unread; the end is that of the connection, without an alert."""
    with serving(tls=trust.server) as server, Client(server, trust.client) as client:
        client.send(get("/echo", "Content-Length: 99999999", method="POST"), b"x" * 1000)
        until(lambda: len(server.flush_thread._lingering))
        for _ in range(8):
            client.send(b"x" * 65536)
        assert client.answer().status == 413
        assert client.rest() == b""


def test_a_tls_client_may_send_many_small_records(trust: Trust) -> None:
    """Read all that have come at once: a record a read, with a delay each, would take for ever."""
    with serving(tls=trust.server) as server, Client(server, trust.client) as client:
        client.send(get("/echo", "Content-Length: 3000", method="POST"))
        for _ in range(300):
            client.send(b"0123456789")
        assert client.answer().body == b"0123456789" * 300


@pytest.mark.skipif(not hasattr(select, "EPOLLRDHUP"), reason="needs Linux")
def test_a_tls_client_that_leaves_a_part_of_a_request_behind_is_noticed(trust: Trust) -> None:
    """Hang up during a silent stream."""
    ended = threading.Event()

    def wait(writer: BodyWriter) -> None:
        try:
            writer.wait_for_disconnect()
        finally:
            ended.set()

    routes = {"/": {"GET": lambda _: StreamingResponse(wait, TEXT)}}
    with serving(routes, tls=trust.server) as server:
        with Client(server, trust.client) as client:
            client.send(get())
            client.until(b"\r\n\r\n")
            client.send(b"GET / HT")
            until(lambda: server.flush_thread._early)
        assert ended.wait(TIMEOUT)


def test_a_plain_client_on_the_tls_port_is_dropped_quietly(
    trust: Trust, caplog: pytest.LogCaptureFixture
) -> None:
    """Answer nothing in the clear, log no error, and go on."""
    with serving(tls=trust.server) as server:
        with Client(server) as plain:
            plain.send(get())
            with contextlib.suppress(ConnectionError):
                assert b"HTTP" not in plain.rest()
        with Client(server, trust.client) as client:
            assert client.send(get()).answer().body == b"hello"
        client.sock.close()
        until(lambda: not server.connections)
    assert problems(caplog) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # ssl leaves its socket to the collector
def test_a_client_that_leaves_before_or_in_the_handshake_is_no_error(
    trust: Trust, caplog: pytest.LogCaptureFixture
) -> None:
    """Hang up at once, politely and with a reset, as port scanners and probes do."""
    with serving(tls=trust.server) as server:
        for number in range(60):
            with Client(server) as client:
                linger = b"\1\0\0\0\0\0\0\0" if number % 2 else b"\0\0\0\0\0\0\0\0"
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                if number % 3 == 0:
                    client.send(b"\x16\x03\x01\x02\x00")
        with Client(server, trust.client) as client:
            assert client.send(get()).answer().body == b"hello"
        until(lambda: not server.connections)
    assert problems(caplog) == []


def test_a_stalled_handshake_ends_at_the_limit(trust: Trust) -> None:
    """Connect and say nothing, or drip: the handshake has the deadline of a head."""
    with serving(tls=trust.server, limits=only(head_seconds=SHORT)) as server:
        with Client(server) as silent:
            assert silent.ends()
        with Client(server) as dripping, contextlib.suppress(ConnectionError):
            dripping.sock.settimeout(0.02)
            started = time.monotonic()
            for byte in itertools.chain(b"\x16\x03\x01\x02\x00", itertools.repeat(1)):
                assert time.monotonic() - started < TIMEOUT
                dripping.send(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    if not dripping.sock.recv(100):
                        break
        until(lambda: not server.connections)


def test_at_the_cap_stalled_handshakes_make_room(trust: Trust) -> None:
    """Drop what never became a TLS connection, like any other idle one."""
    with (
        serving(tls=trust.server, limits=only(connections=2)) as server,
        Client(server) as one,
        Client(server) as other,
    ):
        until(
            lambda: (
                [type(sock) for sock, _ in server.connections._states.values()]
                == [ssl.SSLSocket] * 2
            )
        )
        with Client(server, trust.client) as first, Client(server, trust.client) as second:
            for client in (first, second):
                assert client.send(get()).answer().body == b"hello"
            for stalled in (one, other):
                assert stalled.ends()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs both versions of IP")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_has_one_form_under_both_versions_of_ip(address: str) -> None:
    """A socket of both has clients of IPv4 under mapped addresses; no route sees those."""

    def show(request: Request) -> Response:
        return Response(200, f"{request.peer} {request.local}".encode())

    with Server(("::", 0), {"/": {"GET": show}}) as server:
        client = http.client.HTTPConnection(address, server.port, timeout=TIMEOUT)
        with contextlib.closing(client):
            client.request("GET", "/", headers={"Host": "localhost"})
            assert client.getresponse().read().decode() == f"{address} {address}"
