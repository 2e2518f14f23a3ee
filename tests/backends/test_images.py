"""Pictures of a chat: which address is meant, what is fetched, what is refused."""

from __future__ import annotations

import base64
import gzip
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backends import _images, _web
from backends._images import MARK, Image, attach, fetch, find, inspect
from kuwa_min.errors import AnswerError


def png(width: int = 2, height: int = 1) -> bytes:
    """Return a real PNG, black, whose head claims this size."""
    body = zlib.compress(b"\0" * 7)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", body))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (*chunks, (b"IEND", b""))
    )


def gif(width: int, height: int) -> bytes:
    """Return the head of a GIF."""
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0;"


def jpeg(width: int, height: int) -> bytes:
    """Return the head of a JPEG: a comment and a filling byte stand before the size."""
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 8, 8, height, width, 1)
    return b"\xff\xd8\xff\xfe\x00\x04hi\xff" + frame


def webp(kind: bytes, rest: bytes) -> bytes:
    """Return the head of a WebP."""
    return b"RIFF\x20\0\0\0WEBP" + kind + b"\x0a\0\0\0" + rest


def data_url(data: bytes) -> str:
    """Return a picture as an address."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def user(text: str) -> dict[str, str]:
    """Return a message of the person."""
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    """Return a message of the assistant."""
    return {"role": "assistant", "content": text}


# -- which address is meant


@pytest.mark.parametrize(
    ("text", "url", "rest"),
    [
        ("http://a/b.png what is it?", "http://a/b.png", "what is it?"),
        ("What is http://a/b.png?", "http://a/b.png", "What is ?"),
        ("看 https://a/b.png。", "https://a/b.png", "看 。"),
        ("![it](https://a/b.png) please", "https://a/b.png", "![it]() please"),
        ("http://a/ or HTTPS://b/", "HTTPS://b/", "http://a/ or"),
        ("so data:image/png;base64,AA== so", "data:image/png;base64,AA==", "so  so"),
        (f"{MARK}http://a/", "http://a/", ""),
    ],
)
def test_the_last_address_of_a_message_is_the_picture(text: str, url: str, rest: str) -> None:
    """The rest of the message stays, after the sign of the picture."""
    history = [user(text)]
    assert find(history) == (url, [user(MARK + rest)])
    assert history == [user(text)], "the caller's list is not changed"


def test_a_picture_stays_for_the_questions_that_follow() -> None:
    """The latest message of the user that has one counts; the assistant's addresses do not."""
    history = [user("http://a/"), user("http://b/ ?"), bot("http://c/"), user("and then?")]
    assert find(history) == ("http://b/", [history[0], user(f"{MARK}?"), *history[2:]])


def test_nobody_types_the_sign_of_a_picture() -> None:
    """It goes, so that no chat has a place for a picture that is not there."""
    assert find([user(f"a{MARK}b"), bot(MARK)]) == (None, [user("ab"), bot("")])


def test_the_message_that_is_asked_now_must_have_its_picture() -> None:
    """What cannot be read ends the answer; the same address in an earlier message does not."""
    broken = user("data:image/png;base64,AAA look")
    with pytest.raises(AnswerError, match="damaged or was cut off"):
        attach([broken], allow_private=False)
    assert attach([broken, bot("x"), user("y")], allow_private=False) == (
        None,
        [broken, bot("x"), user("y")],
    )
    image, marked = attach([user(data_url(png()) + " look")], allow_private=False)
    assert image == Image(png(), "image/png")
    assert marked == [user(f"{MARK}look")]


# -- what a picture is


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (png(), "image/png"),
        (jpeg(3, 2), "image/jpeg"),
        (gif(3, 2), "image/gif"),
        (webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 3, 2)), "image/webp"),
        (webp(b"VP8L", b"\x2f" + struct.pack("<I", 2 | 1 << 14)), "image/webp"),
        (webp(b"VP8X", b"\0\0\0\0\x02\0\0\x01\0\0"), "image/webp"),
    ],
)
def test_the_first_bytes_say_what_it_is(data: bytes, media_type: str) -> None:
    """Whatever the address or a server calls it."""
    assert inspect(data) == Image(data, media_type)
    assert fetch("data:image/bmp;base64," + base64.b64encode(data).decode(), allow_private=False)


@pytest.mark.parametrize(
    "data",
    [
        png(60_000, 60_000),
        jpeg(60_000, 60_000),
        gif(60_000, 60_000),
        webp(b"VP8X", b"\0\0\0\0\xff\xff\xff\xff\xff\xff"),
        webp(b"VP8L", b"\x2f\xff\xff\xff\xff"),
    ],
)
def test_a_small_file_with_a_huge_picture_is_refused(data: bytes) -> None:
    """Before anything is unpacked; the sentence says how large it would be."""
    with pytest.raises(AnswerError, match=r"^\[The image cannot be read: it has \d+ x \d+ pixels"):
        inspect(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no PNG, JPEG, GIF or WebP picture"),
        (b"<html>", "no PNG, JPEG, GIF or WebP picture"),
        (gzip.compress(png()), "no PNG, JPEG, GIF or WebP picture"),
        (png()[:18], "damaged"),
        (jpeg(3, 2)[:-6], "damaged"),
        (b"\xff\xd8\xff\xfe\xff\xff", "damaged"),
        (webp(b"VP8X", b""), "damaged"),
        (gif(0, 5), "empty"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, reason: str) -> None:
    """In a sentence that the person reads."""
    with pytest.raises(AnswerError, match=reason):
        inspect(data)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:image/png,hello", "must begin with data:image/...;base64,"),
        ("data:text/html;base64,AAAA", "must begin with data:image/...;base64,"),
        ("data:image/png;base64,AA=", "damaged or was cut off"),
        ("data:image/png;base64,AA%3D%3D", "damaged or was cut off"),
        ("data:image/png;base64,é", "damaged or was cut off"),
        ("data:image/png;base64," + "A" * (14 * 2**20), "larger than 10 MiB"),
    ],
)
def test_a_data_address_is_read_strictly(url: str, reason: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(AnswerError, match=reason):
        fetch(url, allow_private=False)


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
            plug = listener.accept()[0]
        except ssl.SSLError:
            continue  # the client does not trust us
        except OSError:
            return
        with plug:
            try:
                while b"\r\n\r\n" not in plug.recv(65536):
                    pass
                plug.sendall(what) if isinstance(what, bytes) else what(plug)
            except OSError:  # the client left, as it should
                pass


def refusal(url: str, *, allow_private: bool = True) -> str:
    """Return the sentence with which an address is refused."""
    with pytest.raises(AnswerError) as caught:
        fetch(url, allow_private=allow_private)
    sentence = str(caught.value)
    assert sentence.startswith("[The image cannot be ")
    assert sentence.endswith(".]")
    assert len(sentence) < 300, "or our own words would come back to the model"
    return sentence


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time run out soon."""
    monkeypatch.setattr(_web, "SECONDS", 0.3)


@pytest.mark.parametrize(
    "fields",
    [(), (f"Content-Length: {len(png())}",), ("Content-Type: text/html",)],
)
def test_a_picture_is_fetched(serve: Serve, fields: tuple[str, ...]) -> None:
    """With its length or until the server closes, whatever the server calls it."""
    assert fetch(serve(answer(png(), *fields)), allow_private=True) == Image(png(), "image/png")


def test_a_picture_in_chunks_is_fetched(serve: Serve) -> None:
    """As one."""
    body = b"5\r\n" + png()[:5] + f"\r\n{len(png()) - 5:x}\r\n".encode() + png()[5:]
    url = serve(answer(body + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))
    assert fetch(url, allow_private=True).data == png()


def test_the_server_learns_nothing_of_us(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees the path, its own name and port, and no proxy of the environment is asked."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def once() -> None:
            plug = listener.accept()[0]
            with plug:
                seen.append(plug.recv(65536))
                plug.sendall(answer(png()))

        thread = threading.Thread(target=once)
        thread.start()
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
        fetch(f"http://127.0.0.1:{port}/圖.png?q=a#b", allow_private=True)
        thread.join(5)
    head, *fields = seen[0].decode().split("\r\n")
    assert head == "GET /%E5%9C%96.png?q=a HTTP/1.1"
    assert {one.partition(":")[0] for one in fields if one} == {
        *("Host", "Accept", "Accept-Encoding", "Connection")
    }
    assert f"Host: 127.0.0.1:{port}" in fields


def endless(plug: socket.socket) -> None:
    """Send a picture that has no end."""
    plug.sendall(answer(png()))
    while True:
        plug.sendall(b"\0" * 65536)


def endless_head(plug: socket.socket) -> None:
    """Send a header without an end."""
    plug.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        plug.sendall(b"X-More: and more\r\n")


def dripping(head: bytes) -> Talk:
    """Send a byte as often as the client's patience for a single read would allow."""

    def talk(plug: socket.socket) -> None:
        plug.sendall(head)
        plug.settimeout(0.02)
        while True:
            try:
                if not plug.recv(1):
                    return
            except TimeoutError:
                plug.sendall(b"a")

    return talk


def silent(plug: socket.socket) -> None:
    """Say nothing until the client leaves."""
    plug.recv(1)


def test_a_picture_without_end_is_cut_off(serve: Serve) -> None:
    """Counted while it comes."""
    assert "larger than 10 MiB" in refusal(serve(endless))


def test_a_picture_of_almost_the_limit_is_taken(serve: Serve) -> None:
    """To the byte."""
    body = png().ljust(_images.LARGEST, b"\0")
    assert len(fetch(serve(answer(body)), allow_private=True).data) == 10 * 2**20
    assert "larger than 10 MiB" in refusal(serve(answer(body + b"\0")))


def test_a_picture_that_is_announced_as_huge_is_not_read(serve: Serve) -> None:
    """Its length is enough."""
    assert "larger than 10 MiB" in refusal(serve(answer(b"", f"Content-Length: {2**40}")))


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    "talk", [silent, dripping(b"HTTP/1.1 200 OK\r\nX: "), dripping(answer(png()))]
)
def test_a_slow_server_is_left(serve: Serve, talk: Talk) -> None:
    """The time is for everything together, so that a byte now and then buys no more of it."""
    assert "127.0.0.1 took longer than 0.3 s" in refusal(serve(talk))


@pytest.mark.usefixtures("soon")
def test_a_name_that_nobody_answers_for_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's look-up has no limit of its own."""
    gate = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: gate.wait(10) and [])
    assert "is unknown here" in refusal("http://example.com/")
    gate.set()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (answer(b"<html>", "Content-Type: image/png"), "no PNG, JPEG, GIF or WebP"),
        (answer(gzip.compress(bytes(2**20)), "Content-Encoding: gzip"), "no PNG, JPEG, GIF"),
        (answer(png(60_000, 60_000)), "60000 x 60000 pixels"),
        (answer(png(), "Content-Length: 500"), "broke off in the middle"),
        (answer(b"ff\r\nab", "Transfer-Encoding: chunked"), "does not answer as a web server"),
        (answer(b"zz\r\n", "Transfer-Encoding: chunked"), "does not answer as a web server"),
        (answer(png(), status="404 Not Found"), "127.0.0.1 answers 404"),
        (answer(png(), status="206 Partial"), "127.0.0.1 answers 206"),
        (answer(b"", status="302 Found"), "redirected more than 3 times"),
        (answer(b"", "Location: file:///etc/passwd", status="302 Found"), "must begin with http"),
        (answer(b"", "Location: http://[", status="302 Found"), "does not answer as a web server"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer as a web server"),
        (b"", "does not answer as a web server"),
        (endless_head, "does not answer as a web server"),
    ],
)
def test_an_odd_server_is_refused(serve: Serve, what: bytes | Talk, reason: str) -> None:
    """With what was odd, and nothing of what it said."""
    assert reason in refusal(serve(what))


def test_tls_is_verified(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody vouches for is refused; one that somebody does is not."""
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
    assert "the certificate of localhost cannot be verified" in refusal(url)
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    assert fetch(url, allow_private=True).data == png()
    assert "the certificate of 127.0.0.1" in refusal(url.replace("localhost", "127.0.0.1"))


def test_three_redirects_are_followed(serve: Serve) -> None:
    """Relative ones, too; a fourth is not."""
    url = serve(answer(png()))
    for count in range(4):
        assert fetch(url, allow_private=True).data == png(), count
        url = serve(answer(b"", f"Location: {url}", status="301 Moved"))
    assert "redirected more than 3 times" in refusal(url)


# -- where it may be fetched from


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "localhost", "[::1]", "[::]"),
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1"),
        *("240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "[fe80::1]", "[fc00::1]"),
        *("[ff02::1]", "[fec0::1]", "[::ffff:127.0.0.1]", "[::ffff:8.8.8.8]", "[64:ff9b::8.8.8.8]"),
        *("[64:ff9b:1::1]", "[2002:7f00:1::]", "[2001:0:1::1]", "[2001:db8::1]", "[::127.0.0.1]"),
    ],
)
def test_no_private_address_is_asked(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """However it is written; no connection is tried, and the sentence tells no address of ours."""
    monkeypatch.setattr(_web, "_connect", None)  # calling it would be another error
    sentence = refusal(f"http://{host}/", allow_private=False)
    assert "is unknown here or is on a private network" in sentence
    assert "data: address" in sentence


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "2a00:1450:4001::1"])
def test_public_addresses_are_public(address: str) -> None:
    """Or nothing could be fetched."""
    assert _web.is_public(address)


def test_an_unknown_name_reads_like_a_private_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody learns which names our network knows."""
    private = refusal("http://127.0.0.1/", allow_private=False)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert refusal("http://no.where/", allow_private=False) == private.replace(
        "127.0.0.1", "no.where"
    )


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> str:
    """Take one loopback address for a public one; return it."""
    monkeypatch.setattr(_web, "is_public", lambda address: address == "127.0.0.2")
    return "127.0.0.2"


def test_a_redirect_to_a_private_address_is_refused(serve: Serve, public: str) -> None:
    """Every address on the way is checked like the first."""
    inside = serve(answer(png()))
    url = serve(answer(b"", f"Location: {inside}", status="302 Found"), host=public)
    assert "on a private network" in refusal(url, allow_private=False)
    url = serve(answer(png()), host=public)
    assert fetch(url, allow_private=False).data == png()


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
    assert fetch(url.replace(public, "evil.example"), allow_private=False).data == png()
    assert next(given) == "127.0.0.1", "it was not asked again"


def test_a_name_with_one_private_address_is_refused(
    public: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another one of it is public."""
    both = [(2, 1, 6, "", (address, 80)) for address in (public, "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert "on a private network" in refusal("http://mixed.example/", allow_private=False)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://me:secret@example.com/", "must not hold a name and a password"),
        ("http://example.com\\@127.0.0.1/", "must not hold a name and a password"),
        ("http:///a.png", "must begin with http"),
        ("http://a:99999/", "not written as one"),
        ("http://[::1/", "not written as one"),
        ("http://" + "é" * 300 + "/", "not written as one"),
        ("http://" + "a" * 400 + "/", "is unknown here"),
    ],
)
def test_odd_addresses_are_refused(url: str, reason: str) -> None:
    """With a reason that never repeats a password."""
    sentence = refusal(url, allow_private=False)
    assert reason in sentence
    assert "secret" not in sentence
