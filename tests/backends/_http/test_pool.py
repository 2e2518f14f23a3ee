"""Connections to a service: bodies as they come, proxies of the environment."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from backends._http.body import ChunkedReader, ContentLengthReader, IncompleteBody
from backends._http.cancellation import Cancelled, CancelScope
from backends._http.connection import Request, Timeouts
from backends._http.origin import Origin
from backends._http.pool import ConnectionPool
from backends._http.tls import CA_VARIABLES, create_tls_context
from backends._http.transport_errors import ConnectionFailed, Failure

BODY = b"5\r\nhello\r\n7;name=value\r\n, world\r\n1\r\n\n\r\n0\r\nTrailer: x\r\n\r\n"
ORDINARY = Timeouts(connect=5, read=5)


@pytest.mark.parametrize("size", range(1, 12))
def test_a_chunked_body_is_the_same_however_it_comes(size: int) -> None:
    """Its bytes may be cut anywhere."""
    chunks = ChunkedReader()
    parts = [BODY[at : at + size] for at in range(0, len(BODY), size)]
    assert b"".join(map(chunks.feed, parts)) == b"hello, world\n"
    assert chunks.ended


@pytest.mark.parametrize("line", [b"x\r\n", b"\r\n", b"-1\r\n", b"1_0\r\n", b"1" * 5000])
def test_what_is_no_chunk_is_refused(line: bytes) -> None:
    """A size is hexadecimal and not long."""
    with pytest.raises(IncompleteBody):
        ChunkedReader().feed(line)


def test_a_body_that_ends_too_early_is_not_whole() -> None:
    """Whichever way its length was told; without one, its end is the connection's."""
    for framing in (ChunkedReader(), ContentLengthReader(3)):
        framing.feed(b"")
        with pytest.raises(IncompleteBody):
            framing.feed_eof()
    assert (ContentLengthReader(3).feed(b"abcd"), ContentLengthReader(None).feed_eof()) == (
        b"abc",
        b"",
    )


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Have no proxy in the environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("scheme", "host", "proxy"),
    [
        ("http", "one.test", "http://proxy.test:1"),
        ("https", "one.test", "http://proxy.test:2"),
        ("https", "10.0.0.1", "http://proxy.test:2"),
        ("https", "inside.test", ""),
        ("http", "127.0.0.1", ""),
        ("http", "localhost", ""),
        ("http", "::1", ""),
    ],
)
def test_which_proxy_is_used(clean: pytest.MonkeyPatch, scheme: str, host: str, proxy: str) -> None:
    """The environment's for this scheme, with no_proxy's exceptions; none for this machine."""
    clean.setenv("http_proxy", "proxy.test:1")
    clean.setenv("https_proxy", "http://proxy.test:2")
    clean.setenv("no_proxy", "inside.test")
    assert Origin.of(scheme, host, None).proxy == proxy


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Return a listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        found.settimeout(20)
        yield found


def answer_once(listener: socket.socket, *answers: bytes) -> list[bytes]:
    """Answer the requests of one connection; return what came, which fills on its own."""
    came: list[bytes] = []

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            for answer in answers:
                came.append(sock.recv(65536))
                sock.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return came


def ask(
    origin: Origin, create_tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
) -> bytes:
    """Return the body of an answer."""
    pool = ConnectionPool(create_tls)
    answer = pool.send(Request(origin, "GET", "/v1/models", [("Host", "one.test")]), ORDINARY)
    try:
        return answer.read()
    finally:
        answer.close()
        pool.close()


def test_a_proxy_is_asked_for_the_whole_address(listener: socket.socket) -> None:
    """Of plain HTTP, with the name and password that the proxy's URL holds."""
    came = answer_once(listener, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    proxy = f"http://me:s%40fe@127.0.0.1:{listener.getsockname()[1]}"
    assert ask(Origin("http", "one.test", 80, proxy)) == b"ok"
    assert came[0].startswith(b"GET http://one.test/v1/models HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: Basic bWU6c0BmZQ==\r\n" in came[0]


def test_a_proxy_makes_a_tunnel(listener: socket.socket) -> None:
    """Of TLS, with the name and password that its address holds; one that refuses is an error."""
    came = answer_once(listener, b"HTTP/1.1 407 No\r\n\r\n")
    proxy = f"http://me:s%40fe@127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ConnectionFailed, match="the proxy refuses to connect us: 407"):
        ask(Origin("https", "one.test", 443, proxy))
    assert came[0].startswith(b"CONNECT one.test:443 HTTP/1.1\r\nHost: one.test:443\r\n")
    assert b"\r\nProxy-Authorization: Basic bWU6c0BmZQ==\r\n" in came[0]


def test_what_is_said_in_a_tunnel_is_encrypted(listener: socket.socket, tmp_path: Path) -> None:
    """With the service itself, whose certificate is looked at; the proxy only carries it."""
    certificate, key = make_certificate(tmp_path, "one.test")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    asked: list[bytes] = []

    def serve() -> None:
        sock, _ = listener.accept()
        asked.append(sock.recv(65536))
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with tls.wrap_socket(sock, server_side=True) as service:
            asked.append(service.recv(65536))
            service.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")

    threading.Thread(target=serve, daemon=True).start()
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    trusting = partial(ssl.create_default_context, cafile=str(certificate))
    assert ask(Origin("https", "one.test", 443, proxy), trusting) == b"secret"
    assert asked[0].startswith(b"CONNECT one.test:443 ")
    assert asked[1].startswith(b"GET /v1/models HTTP/1.1\r\n")


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for a name and its key; skips where the openssl command is missing."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command")
    files = folder / "cert.pem", folder / "key.pem"
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    options += ["-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"]
    options += ["-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(["openssl", "req", "-x509", *options], check=True, capture_output=True)
    return files


def connects(listener: socket.socket, server: ssl.SSLContext) -> bool:
    """Tell whether a request over TLS is answered, by a server that answers it."""

    def serve() -> None:
        sock, _ = listener.accept()
        with suppress(OSError), server.wrap_socket(sock, server_side=True) as service:
            service.recv(65536)
            service.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        port = listener.getsockname()[1]
        return ask(Origin("https", "127.0.0.1", port), create_tls_context) == b"ok"
    except ConnectionFailed as failed:
        assert failed.failure is Failure.CERTIFICATE
        assert "SSL_CERT_FILE" in str(failed)
        return False
    finally:
        thread.join(20)


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_the_environment_names_the_cas(
    listener: socket.socket, tmp_path: Path, clean: pytest.MonkeyPatch, variable: str
) -> None:
    """By the variables of OpenSSL, of requests and of curl; several add up."""
    certificate, key = make_certificate(tmp_path, "one.test")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    for name in CA_VARIABLES:
        clean.delenv(name, raising=False)
    assert not connects(listener, server)
    other = "SSL_CERT_FILE" if variable != "SSL_CERT_FILE" else "CURL_CA_BUNDLE"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"{hash_of(certificate)}.0").write_bytes(certificate.read_bytes())
    clean.setenv(variable, str(folder if variable == "SSL_CERT_DIR" else certificate))
    assert connects(listener, server)
    clean.setenv(other, str(make_certificate(folder, "two.test")[0]))
    assert connects(listener, server)


def hash_of(certificate: Path) -> str:
    """Return the name under which OpenSSL looks for a CA in a folder."""
    command = ["openssl", "x509", "-noout", "-hash", "-in", str(certificate)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_missing_ca_file_is_an_error(clean: pytest.MonkeyPatch) -> None:
    """Rather than trusting anything else."""
    clean.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    with pytest.raises(FileNotFoundError):
        create_tls_context()


def test_a_cancelled_scope_watches_nothing() -> None:
    """Whatever it is to watch."""
    scope = CancelScope()
    scope.cancel()
    with socket.socket() as sock, pytest.raises(Cancelled):
        scope.watch(sock)


def test_a_scope_shuts_down_what_it_watches_and_nothing_else(listener: socket.socket) -> None:
    """A socket that was released may serve another chat."""
    held, kept = (socket.create_connection(listener.getsockname(), 5) for _ in range(2))
    others = [listener.accept()[0] for _ in range(2)]
    scope = CancelScope()
    scope.watch(kept)
    scope.unwatch()
    scope.watch(held)
    scope.cancel()
    others[0].settimeout(5)
    assert others[0].recv(1) == b"", "the other side sees it"
    others[1].sendall(b"x")
    assert kept.recv(1) == b"x"
    for sock in (held, kept, *others):
        sock.close()
