"""Links are fetched from real servers on loopback, each with one odd behaviour."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backends._http.cancellation import CancelScope
from backends._media import fetch
from backends._media.fetch_policy import FetchPolicy, LinkError
from kuwa_min.chat.sentence import render
from tests.backends._media.test_images import png

OPEN, CLOSED = FetchPolicy(allow_private=True), FetchPolicy()
MOST = 10 * 2**20


def get(url: str, where: FetchPolicy = OPEN, seconds: float = 10) -> bytes:
    """Return what a link gives, of any kind."""
    return fetch.fetch(url, where, limit=lambda _: MOST, timeout=seconds)


# -- what is fetched, from real servers on loopback, each with one odd behaviour

Talk = Callable[[socket.socket], None]
Serve = Callable[..., str]


def answer(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    """Return an answer of a server; the header fields are exactly these."""
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode() + body


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give what serves these bytes, or talks, and returns the address; end all servers."""
    with ExitStack() as stack:

        def start(
            what: bytes | Talk, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
        ) -> str:
            listener = stack.enter_context(socket.create_server((host, 0)))
            if tls:
                listener = stack.enter_context(tls.wrap_socket(listener, server_side=True))
            thread = threading.Thread(target=_accept, args=(listener, what), daemon=True)
            thread.start()
            stack.callback(thread.join, 5)
            stack.callback(socket.socket.shutdown, listener, socket.SHUT_RDWR)
            return f"http://{host}:{listener.getsockname()[1]}/a.png"

        yield start


def _accept(listener: socket.socket, what: bytes | Talk) -> None:
    while True:
        try:
            sock = listener.accept()[0]
        except ssl.SSLError:
            continue  # the client does not trust us
        except OSError:
            return
        with sock:
            try:
                while b"\r\n\r\n" not in sock.recv(65536):
                    pass
                sock.sendall(what) if isinstance(what, bytes) else what(sock)
            except OSError:  # the client left, as it should
                pass


def refusal(url: str, where: FetchPolicy = OPEN, seconds: float = 10) -> str:
    """Return the sentence with which a link is refused."""
    with pytest.raises(LinkError) as caught:
        get(url, where, seconds)
    sentence = caught.value.about("LINK")
    assert sentence.startswith("LINK was not read: ")
    assert render(sentence, "zh") != sentence, "it is known in Chinese"
    return sentence


@pytest.mark.parametrize(
    "fields",
    [(), (f"Content-Length: {len(png())}",), ("Content-Type: text/html",)],
)
def test_a_file_is_fetched(serve: Serve, fields: tuple[str, ...]) -> None:
    """With its length or until the server closes, whatever the server calls it."""
    assert get(serve(answer(png(), *fields))) == png()


def test_a_file_in_chunks_is_fetched(serve: Serve) -> None:
    """As one."""
    body = b"5\r\n" + png()[:5] + f"\r\n{len(png()) - 5:x}\r\n".encode() + png()[5:]
    url = serve(answer(body + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))
    assert get(url) == png()


def test_the_server_learns_nothing_of_us(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees the path, its own name and port, and no proxy of the environment is asked."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def once() -> None:
            sock = listener.accept()[0]
            with sock:
                seen.append(sock.recv(65536))
                sock.sendall(answer(png()))

        thread = threading.Thread(target=once)
        thread.start()
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
        get(f"http://127.0.0.1:{port}/圖.png?q=a#b")
        thread.join(60)
    head, *fields = seen[0].decode().split("\r\n")
    assert head == "GET /%E5%9C%96.png?q=a HTTP/1.1"
    names = {one.partition(":")[0] for one in fields if one}
    assert names == {"Host", "Accept", "Accept-Encoding", "Connection"}
    assert f"Host: 127.0.0.1:{port}" in fields


def endless(sock: socket.socket) -> None:
    """Send a picture that has no end."""
    sock.sendall(answer(png()))
    while True:
        sock.sendall(b"\0" * 65536)


def endless_head(sock: socket.socket) -> None:
    """Send a header without an end."""
    sock.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        sock.sendall(b"X-More: and more\r\n")


def dripping(head: bytes) -> Talk:
    """Send a byte as often as the client's patience for a single read would allow."""

    def talk(sock: socket.socket) -> None:
        sock.sendall(head)
        sock.settimeout(0.02)
        while True:
            try:
                if not sock.recv(1):
                    return
            except TimeoutError:
                sock.sendall(b"a")

    return talk


def silent(sock: socket.socket) -> None:
    """Say nothing until the client leaves."""
    sock.recv(1)


def test_a_file_without_end_is_cut_off(serve: Serve) -> None:
    """Counted while it comes."""
    assert "larger than 10 MiB" in refusal(serve(endless))


def test_a_file_of_just_the_limit_is_taken(serve: Serve) -> None:
    """To the byte."""
    body = png().ljust(MOST, b"\0")
    assert len(get(serve(answer(body)))) == MOST
    assert "larger than 10 MiB" in refusal(serve(answer(body + b"\0")))


def test_a_file_that_is_announced_as_huge_is_not_read(serve: Serve) -> None:
    """Its length is enough."""
    assert "larger than 10 MiB" in refusal(serve(answer(b"", f"Content-Length: {2**40}")))


@pytest.mark.parametrize(
    "talk", [silent, dripping(b"HTTP/1.1 200 OK\r\nX: "), dripping(answer(png()))]
)
def test_a_slow_server_is_left(serve: Serve, talk: Talk) -> None:
    """The time is for everything together, so that a byte now and then buys no more of it."""
    assert "it took too long" in refusal(serve(talk), seconds=0.3)


def test_a_name_without_an_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's look-up has no limit of its own."""
    gate = threading.Event()

    def slow(*_: object, flags: int = 0, **__: object) -> list[object]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "it is no address")
        gate.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert "is unknown here" in refusal("http://example.com/", seconds=0.3)
    gate.set()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (answer(png(), "Content-Length: 500"), "broke off in the middle"),
        (
            answer(b"ff\r\nab", "Transfer-Encoding: chunked"),
            "nothing answers there",
        ),
        (answer(b"zz\r\n", "Transfer-Encoding: chunked"), "nothing answers there"),
        (answer(png(), status="404 Not Found"), "its server answers 404"),
        (answer(png(), status="206 Partial"), "its server answers 206"),
        (answer(b"", status="302 Found"), "redirected too often"),
        (
            answer(b"", "Location: file:///etc/passwd", status="302 Found"),
            "its address cannot be used",
        ),
        (
            answer(b"", "Location: http://[", status="302 Found"),
            "nothing answers there",
        ),
        (b"SSH-2.0-OpenSSH\r\n", "nothing answers there"),
        (b"", "nothing answers there"),
        (endless_head, "nothing answers there"),
    ],
)
def test_an_odd_server_is_refused(serve: Serve, what: bytes | Talk, reason: str) -> None:
    """With what was odd, and nothing of what it said."""
    assert reason in refusal(serve(what))


def test_tls_is_verified(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of an unknown CA is refused; one of a known CA is not."""
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", key, "-out", certificate]
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command")
    subprocess.run(
        ["openssl", "req", "-x509", *options, *names, *files], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    url = serve(answer(png()), tls=context).replace("http://127.0.0.1", "https://localhost")
    assert "the certificate of its server cannot be verified" in refusal(url)
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    assert get(url) == png()
    assert "the certificate of its server" in refusal(url.replace("localhost", "127.0.0.1"))


def test_three_redirects_are_followed(serve: Serve) -> None:
    """Relative ones, too; a fourth is not."""
    url = serve(answer(png()))
    for count in range(4):
        assert get(url) == png(), count
        url = serve(answer(b"", f"Location: {url}", status="301 Moved"))
    assert "redirected too often" in refusal(url)


# -- where it may be fetched from

PRIVATE_HOSTS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0.0.0.0",
    "localhost",
    "[::1]",
    "[::]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "198.18.0.1",
    "[fe80::1]",
    "[fc00::1]",
    "[ff02::1]",
    "[fec0::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:8.8.8.8]",
    "[64:ff9b::8.8.8.8]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2001:0:1::1]",
    "[2001:db8::1]",
    "[::127.0.0.1]",
]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_no_private_address_is_asked(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """However it is written; no connection is tried, and the sentence tells no address of ours."""
    monkeypatch.setattr(fetch, "_connect", None)  # calling it would be another error
    sentence = refusal(f"http://{host}/", CLOSED)
    assert sentence.endswith("its server is unknown here or on a private network.")


def test_an_unknown_name_reads_like_a_private_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user must not learn which names our network knows."""
    private = refusal("http://127.0.0.1/", CLOSED)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert refusal("http://no.where/", CLOSED) == private


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> str:
    """Take one loopback address for a public one; return it."""
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.2")
    monkeypatch.setattr(fetch, "is_own", lambda _: False)
    return "127.0.0.2"


def test_a_redirect_to_a_private_address_is_refused(serve: Serve, public: str) -> None:
    """Every address on the way is checked like the first."""
    inside = serve(answer(png()))
    url = serve(answer(b"", f"Location: {inside}", status="302 Found"), host=public)
    assert "on a private network" in refusal(url, CLOSED)
    url = serve(answer(png()), host=public)
    assert get(url, CLOSED) == png()


def test_a_name_is_looked_up_once(
    serve: Serve, public: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is private the second time gets the connection that was checked."""
    url = serve(answer(png()), host=public)
    given = iter([public, "127.0.0.1"])
    real = socket.getaddrinfo

    def changing(host: str, *rest: object, **more: object) -> object:
        return real(next(given) if host == "evil.example" else host, *rest, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    assert get(url.replace(public, "evil.example"), CLOSED) == png()
    assert next(given) == "127.0.0.1", "it was not asked again"


def test_a_name_with_one_private_address_is_refused(
    public: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another one of it is public."""
    both = [(2, 1, 6, "", (address, 80)) for address in (public, "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert "on a private network" in refusal("http://mixed.example/", CLOSED)


@pytest.mark.parametrize(
    ("policy", "is_asked"),
    [(OPEN, False), (FetchPolicy(uploads=frozenset({("cloud.example", 80)})), True)],
)
def test_a_metadata_service_is_asked_only_if_its_host_is_named(
    monkeypatch: pytest.MonkeyPatch, policy: FetchPolicy, is_asked: bool
) -> None:
    """It gives out the keys of the machine: --allow_private_urls does not mean it."""
    there = [(2, 1, 6, "", ("169.254.169.254", 80))]
    asked: list[list[str]] = []

    def connect(addresses: list[str], *_: object) -> None:
        asked.append(addresses)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: there)
    monkeypatch.setattr(fetch, "_connect", connect)
    refusal("http://cloud.example/latest/meta-data", policy)
    assert asked == [["169.254.169.254"]] * is_asked


OWN_UPLOAD = FetchPolicy(kernel=frozenset({("127.0.0.1", 80)}))


@pytest.mark.parametrize(
    ("policy", "path", "is_asked"),
    [
        (CLOSED, "/storage/a.png", False),
        (OWN_UPLOAD, "/storage/a.png", True),
        (OWN_UPLOAD, "/worker/read", False),
        (OPEN, "/worker/read", True),
    ],
)
def test_a_public_address_of_this_machine_is_judged_as_loopback(
    monkeypatch: pytest.MonkeyPatch, policy: FetchPolicy, path: str, is_asked: bool
) -> None:
    """The site that people upload to may stand there, under a name of its own."""
    here = [(2, 1, 6, "", ("8.8.8.8", 80))]
    asked: list[list[str]] = []

    def connect(addresses: list[str], *_: object) -> None:
        asked.append(addresses)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: here)
    monkeypatch.setattr(fetch, "is_own", lambda address: address == "8.8.8.8")
    monkeypatch.setattr(fetch, "_connect", connect)
    sentence = refusal(f"http://chat.example{path}", policy)
    assert ("on a private network" not in sentence, asked) == (is_asked, [["8.8.8.8"]] * is_asked)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://me:secret@example.com/", "address cannot be used"),
        ("http://example.com\\@127.0.0.1/", "address cannot be used"),
        ("http:///a.png", "address cannot be used"),
        ("http://a:99999/", "address cannot be used"),
        ("http://[::1/", "address cannot be used"),
        ("http://" + "é" * 300 + "/", "address cannot be used"),
        ("http://" + "a" * 400 + "/", "is unknown here"),
    ],
)
def test_odd_addresses_are_refused(url: str, reason: str) -> None:
    """With a reason that never repeats a password."""
    sentence = refusal(url, CLOSED)
    assert reason in sentence
    assert "secret" not in sentence


# -- what the operator lets be fetched although it is private


def test_an_upload_is_fetched_from_a_named_host_only(serve: Serve) -> None:
    """Each redirect is judged anew, also one that comes from a host that is named."""
    inside, other = serve(answer(png())), serve(answer(png()))
    port = int(inside.split(":")[2].partition("/")[0])
    named = FetchPolicy(uploads=frozenset({("127.0.0.1", port)}))
    assert get(inside, named) == png()
    assert "on a private network" in refusal(other, named)
    moved = serve(answer(b"", f"Location: {other}", status="302 Found"))
    leads_out = int(moved.split(":")[2].partition("/")[0])
    named = FetchPolicy(uploads=frozenset({("127.0.0.1", leads_out)}))
    assert "on a private network" in refusal(moved, named)


def test_an_unwanted_kind_is_not_read_to_its_end(serve: Serve) -> None:
    """Its first bytes decide."""

    def unwanted(start: bytes) -> int:
        assert start.startswith(png())
        raise LinkError("{} is not wanted")

    with pytest.raises(LinkError, match="not wanted"):
        fetch.fetch(serve(endless), OPEN, limit=unwanted)


def test_a_stopped_chat_ends_its_fetch(serve: Serve) -> None:
    """While the server is silent: another thread cancels its scope."""
    scope, reached = CancelScope(), threading.Event()

    def wait(sock: socket.socket) -> None:
        reached.set()
        sock.recv(1)

    url = serve(wait)
    canceller = threading.Thread(target=lambda: (reached.wait(60), scope.cancel()))
    canceller.start()
    with scope:
        assert "nothing answers there" in refusal(url, seconds=600)
    canceller.join(60)
