"""The process that accepts connections: its loop, here on a thread, and what it takes as plain."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from kuwa_min.errors import HTTPError
from kuwa_min.httpd import http1
from kuwa_min.httpd.acceptor_child import ALIVE, Acceptor, Settings, plain_request
from kuwa_min.httpd.origin_policy import Initiator, OriginPolicy, initiator
from tests.support.programs import TIMEOUT, until

PLAIN = b"GET /health HTTP/1.1\r\nHost: any.name:80\r\n"
SETTINGS = Settings(
    path="/health",
    answers=(b"closed|", b"kept|"),
    stale=b"stale|",
    full=b"full|",
    stale_seconds=1e6,
    silent_seconds=1e6,
    idle_seconds=1e6,
    connections=100,
    parent=os.getppid(),
)


class Parent:
    """The other side of the control socket."""

    def __init__(self, control: socket.socket, port: int) -> None:
        self.control, self.port = control, port

    def connect(self, data: bytes = b"") -> socket.socket:
        """Return a client's socket, which has sent this."""
        client = socket.create_connection(("127.0.0.1", self.port), TIMEOUT)
        client.sendall(data)
        return client

    def receive(self) -> socket.socket:
        """Return the next connection that is handed over."""
        while True:
            data, numbers, *_ = socket.recv_fds(self.control, 1, 1)
            assert data, "it has ended"
            if numbers:
                sock = socket.socket(fileno=numbers[0])
                sock.settimeout(TIMEOUT)
                return sock


@contextlib.contextmanager
def running(settings: Settings = SETTINGS, buffer: int = 0) -> Iterator[Parent]:
    """Run the loop on a thread; buffer: of its control socket, in bytes."""
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT)
    if buffer:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        acceptor = Acceptor(theirs, listening, settings)
        thread = threading.Thread(target=acceptor.run)
        thread.start()
        try:
            yield Parent(ours, listening.getsockname()[1])
        finally:
            ours.shutdown(socket.SHUT_RDWR)  # the parent's end
            thread.join(TIMEOUT)
            assert not thread.is_alive()
            for sock in [*(one.sock for one in acceptor._waiting.values()), *acceptor._outbox]:
                sock.close()  # otherwise the end of the process does


def read_to_end(client: socket.socket) -> bytes:
    """Return all that comes until the connection ends."""
    data = b""
    while more := client.recv(4096):
        data += more
    return data


@pytest.mark.parametrize(
    ("rest", "keep_alive"),
    [
        (b"", True),
        (b"User-Agent: kube-probe/1.30\r\nAccept: */*\r\nConnection: close\r\n", False),
        (b"connection: Keep-Alive , Close\r\n", False),
        (b"CONNECTION: keep-alive\r\nAccept-Encoding:gzip\r\n", True),
        (b"User-Agent: Mozilla/5.0 (X11)\r\n", None),
        (b"user-agent: \tmozilla/5.0\r\n", None),
        (b"Origin: http://a\r\n", None),
        (b"Sec-Fetch-Site: none\r\n", None),
        (b"Accept-Language: zh-TW\r\n", None),
        (b"Content-Length: 5\r\n", None),
        (b"Transfer-Encoding: chunked\r\n", None),
        (b"Expect: 100-continue\r\n", None),
        (b"Host: another\r\n", None),
        (b"Accept : */*\r\n", None),
        (b"Accept: \x00\r\n", None),
        (b"Accept: a\nOrigin: http://a\r\n", None),
        (b"Accept: a\rOrigin: http://a\r\n", None),
        (b"Accept: \xe4\r\n", None),
        (b"Accept: a\r\n b\r\n", None),
        (b"no colon\r\n", None),
    ],
)
def test_a_plain_request_is_one_that_the_parser_and_the_policy_agree_on(
    rest: bytes, keep_alive: bool | None
) -> None:
    """What may need another answer is the parent's."""
    raw = (PLAIN + rest)[:-2]
    assert plain_request(raw, "/health") is keep_alive
    if keep_alive is not None:
        head = http1.parse_head(raw)
        OriginPolicy((), (), ("/health",)).check(head)
        assert (head.method, head.path, head.keep_alive) == ("GET", "/health", keep_alive)
        assert http1.body_length(head) == 0
        assert initiator(head) is Initiator.PROGRAM


@pytest.mark.parametrize(
    ("raw", "keep_alive"),
    [
        (b"GET /health HTTP/1.0", False),
        (b"GET /health HTTP/1.0\r\nConnection: keep-alive", False),
        (b"GET /health HTTP/1.1", None),
        (b"GET /health HTTP/2.0\r\nHost: a", None),
        (b"GET  /health HTTP/1.1\r\nHost: a", None),
        (b"GET /healthy HTTP/1.1\r\nHost: a", None),
        (b"GET /health?deep HTTP/1.1\r\nHost: a", None),
        (b"HEAD /health HTTP/1.1\r\nHost: a", None),
        (b"POST /health HTTP/1.1\r\nHost: a", None),
    ],
)
def test_a_request_line_is_taken_to_the_letter(raw: bytes, keep_alive: bool | None) -> None:
    """HTTP/1.0 needs no Host and is closed, as the parent does."""
    assert plain_request(raw, "/health") is keep_alive
    if keep_alive is not None:
        OriginPolicy((), (), ("/health",)).check(http1.parse_head(raw))
    elif b"Host" not in raw:
        with pytest.raises(HTTPError):
            OriginPolicy((), (), ("/health",)).check(http1.parse_head(raw))


def test_a_connection_is_answered_until_it_asks_for_something_else() -> None:
    """Pipelined: two checks, then a chat, which the parent gets from its first byte on."""
    chat = b"POST /chat HTTP/1.1\r\n\r\nbody"
    with running() as parent, parent.connect(2 * (PLAIN + b"\r\n") + chat) as client:
        with parent.receive() as taken:
            assert taken.recv(4096) == chat
            assert taken.getpeername() == client.getsockname()
            taken.sendall(b"answer")
        assert read_to_end(client) == b"kept|kept|answer"


def test_a_client_that_wants_to_close_is_closed() -> None:
    """By the end of the stream, not by a reset."""
    with running() as parent, parent.connect(PLAIN + b"Connection: close\r\n\r\n") as client:
        assert read_to_end(client) == b"closed|"


@pytest.mark.parametrize("data", [b"G", PLAIN, b"\x16\x03\x01", b"\r\n", b"x" * 5000])
def test_what_is_no_whole_head_is_handed_over_at_once(data: bytes) -> None:
    """A partial head, a TLS handshake, an empty line, a long head: with all bytes unread."""
    with running() as parent, parent.connect(data), parent.receive() as taken:
        assert taken.recv(len(data), socket.MSG_WAITALL) == data


def test_silent_connections_are_handed_over_and_answered_ones_closed() -> None:
    """Each after its time; one that has left is neither."""
    with running() as parent:
        parent.connect().close()
        with parent.connect(b"G") as other, parent.receive() as taken:
            assert taken.getpeername() == other.getsockname()
    at_once = SETTINGS._replace(silent_seconds=0.0)
    with running(at_once) as parent, parent.connect() as silent, parent.receive() as taken:
        assert taken.getpeername() == silent.getsockname()
    at_once = SETTINGS._replace(idle_seconds=0.0)
    with running(at_once) as parent, parent.connect(PLAIN + b"\r\n") as answered:
        assert read_to_end(answered) == b"kept|"


def test_above_the_limit_the_longest_silent_connection_makes_room() -> None:
    """It goes to the parent, whose own limit decides about it."""
    with running(SETTINGS._replace(connections=2)) as parent, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(parent.connect()) for _ in range(4)]
        for client in silent[:2]:  # none of them sends anything, so the first ones go
            taken = stack.enter_context(parent.receive())
            assert taken.getpeername() == client.getsockname()
        with parent.connect(PLAIN + b"Connection: close\r\n\r\n") as client:
            assert read_to_end(client) == b"closed|"


def test_a_parent_that_takes_nothing_holds_up_no_check() -> None:
    """Connections for it wait, some are refused, and all that waited come through in order."""
    with running(SETTINGS._replace(connections=3), 1) as parent, contextlib.ExitStack() as stack:
        others = [stack.enter_context(parent.connect(b"%d" % number)) for number in range(30)]
        with parent.connect(PLAIN + b"Connection: close\r\n\r\n") as client:
            assert read_to_end(client) == b"closed|"
        refused = []
        for client in others:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                refused.append(client.recv(5))
        assert 0 < len(refused) < 27
        assert set(refused) == {b"full|"}
        for number in range(30 - len(refused)):
            taken = stack.enter_context(parent.receive())
            assert taken.recv(5) == b"%d" % number


def test_a_parent_that_is_silent_for_long_makes_the_check_fail() -> None:
    """Its next heartbeat makes it healthy again."""
    check = PLAIN + b"Connection: close\r\n\r\n"
    with running(SETTINGS._replace(stale_seconds=0.0)) as parent, parent.connect(check) as client:
        assert read_to_end(client) == b"stale|"
    with running(SETTINGS._replace(stale_seconds=0.05)) as parent:

        def answer() -> bytes:
            with parent.connect(check) as client:
                return read_to_end(client)

        def beat() -> None:
            parent.control.sendall(ALIVE)

        until(lambda: answer() == b"stale|")
        until(lambda: beat() or answer() == b"closed|")


def test_heartbeats_are_answered_and_the_wrong_parent_is_none() -> None:
    """It says that it lives; the child of another process ends at once."""
    with running() as parent:
        for _ in range(3):
            parent.control.sendall(ALIVE)
            assert parent.control.recv(1) == ALIVE
    with running(SETTINGS._replace(parent=0)) as parent:
        assert parent.control.recv(1) == ALIVE
