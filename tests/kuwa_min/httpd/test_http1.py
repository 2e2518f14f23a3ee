"""HTTP/1.1 framing: tables of exact bytes, and what they are read as or refused with."""

from __future__ import annotations

import pytest

from kuwa_min.errors import HTTPError
from kuwa_min.httpd import http1

GET = b"GET / HTTP/1.1\r\nHost: localhost"
POST = b"POST /chat HTTP/1.1\r\nHost: localhost\r\n"


def refusal(raw: bytes) -> int:
    """Return the status with which a head, or the length of its body, is refused."""
    with pytest.raises(HTTPError) as caught:
        http1.body_length(http1.parse_head(raw))
    return caught.value.status


def test_a_head_is_read_into_method_path_version_and_fields() -> None:
    """Read every part of an ordinary head."""
    head = http1.parse_head(
        b"POST /chat/1?key=value HTTP/1.1\r\nHost: localhost:80\r\nX-Two: a\r\nx-two:\tb \r\nEmpty:"
    )
    assert (head.method, head.path, head.authority, head.http10) == ("POST", "/chat/1", None, False)
    assert head.headers == {"host": ["localhost:80"], "x-two": ["a", "b"], "empty": [""]}


@pytest.mark.parametrize(
    ("target", "path", "authority"),
    [
        (b"/", "/", None),
        (b"/a?b?c", "/a", None),
        (b"/a/?b", "/a", None),
        (b"/a/b//", "/a/b", None),
        (b"/chat/X/", "/chat/X", None),
        (b"///", "/", None),
        (b"/a%2e%2e/b;c#d", "/a%2e%2e/b;c#d", None),
        (b"//evil.example/chat", "//evil.example/chat", None),
        (b"http://localhost:80/chat?x", "/chat", "localhost:80"),
        (b"HTTPS://[::1]", "/", "[::1]"),
        (b"http://", "/", ""),
        (b"http://user@localhost/", "/", "user@localhost"),
    ],
)
def test_a_target_is_split_into_path_and_authority(
    target: bytes, path: str, authority: str | None
) -> None:
    """Read targets in origin form and in absolute form."""
    head = http1.parse_head(b"GET %s HTTP/1.1\r\nHost: localhost" % target)
    assert (head.path, head.authority) == (path, authority)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /", 400),  # HTTP/0.9
        (b"GET", 400),
        (b"", 400),
        (b"GET / HTTP/0.9", 505),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/2.0", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"GET / HTTP/11.1", 505),
        (b"GET / HTTP/1.1.1", 400),
        (b"GET / HTTP/1", 400),
        (b"GET / http/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b" GET / HTTP/1.1", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET /  HTTP/1.1", 400),
        (b"GET\t/ HTTP/1.1", 400),
        (b"GET / a HTTP/1.1", 400),
        (b"GET /a\x00b HTTP/1.1", 400),
        (b"GET /a\rb HTTP/1.1", 400),
        (b"GET /a\nb HTTP/1.1", 400),
        (b"GET /\xc3\xa9 HTTP/1.1", 400),
        (b"G(T / HTTP/1.1", 400),
        (b"G\xc9T / HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 404),
        (b"OPTIONS * HTTP/1.1", 404),
        (b"GET chat HTTP/1.1", 400),
        (b"GET localhost:80 HTTP/1.1", 400),
        (b"CONNECT localhost:80 HTTP/1.1", 400),
        (b"GET ftp://localhost/ HTTP/1.1", 400),
        (b"GET http://[::1/ HTTP/1.1", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS on a plain port
    ],
)
def test_a_doubtful_request_line_is_refused(line: bytes, status: int) -> None:
    """Refuse other versions with 505, an asterisk with 404, and everything else with 400."""
    assert refusal(line + b"\r\nHost: localhost") == status


@pytest.mark.parametrize(
    "line",
    [
        b"no colon",
        b"",
        b": no name",
        b"Name : space before the colon",
        b"Na me: space inside",
        b" folded: like an old header",
        b"\tfolded",
        b" folded",
        b"N\xc3\xa4me: 8-bit",
        b"Na\x00me: NUL",
        b"Name: NUL\x00",
        b"Name: bell\x07",
        b"Name: delete\x7f",
        b"Name: bare\rCR",
        b"Name: bare CR\r",
        b"Name: bare\nLF: smuggled",
        b"Name\r: CR",
        b"Name: escape\x1b[2J",
    ],
)
def test_a_doubtful_field_line_is_refused(line: bytes) -> None:
    """Refuse whatever another parser might read in another way."""
    assert refusal(GET + b"\r\n" + line) == 400
    assert refusal(GET + b"\r\n" + line + b"\r\nAccept: */*") == 400


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (b"caf\xe9", "café"),
        (b"\x80\x9f\xff", "\x80\x9f\xff"),
        (b" \t two  words\t", "two  words"),
        (b"a\tb", "a\tb"),
        (b"a: b:c", "a: b:c"),
        (b" XX ", "XX"),
    ],
)
def test_a_value_may_hold_8_bit_characters_tabs_and_colons(value: bytes, read: str) -> None:
    """Read values as Latin-1, without the space around them."""
    assert http1.parse_head(GET + b"\r\nName:" + value).headers["name"] == [read]


def test_a_hundred_fields_are_read_and_one_more_is_refused() -> None:
    """Count the fields."""
    fields = b"\r\nName: value" * (http1.HEADERS_LIMIT - 1)
    assert len(http1.parse_head(GET + fields).headers["name"]) == 99
    assert refusal(GET + fields + b"\r\nName: value") == 431


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (b"Accept: */*", 0),
        (b"Content-Length: 0", 0),
        (b"Content-Length: 007", 7),
        (b"content-LENGTH:42", 42),
        (b"Content-Length: 9999999999999999999", 10**19 - 1),
        (b"Transfer-Encoding: chunked", http1.CHUNKED),
        (b"transfer-encoding: CHUNKED", http1.CHUNKED),
    ],
)
def test_the_length_of_a_body_is_read(fields: bytes, length: int) -> None:
    """Read plain framing."""
    assert http1.body_length(http1.parse_head(POST + fields)) == length


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"Content-Length: 5\r\nContent-Length: 5", 400),
        (b"Content-Length: 5\r\nContent-Length: 6", 400),
        (b"Content-Length: 5\r\ncontent-length: 0", 400),
        (b"Content-Length: 5, 5", 400),
        (b"Content-Length: +40", 400),
        (b"Content-Length: -1", 400),
        (b"Content-Length: 4_0", 400),
        (b"Content-Length: 0x10", 400),
        (b"Content-Length: 4.0", 400),
        (b"Content-Length: 4 0", 400),
        (b"Content-Length:", 400),
        (b"Content-Length: \xb2", 400),
        (b"Content-Length: 5\xa0", 400),
        (b"Content-Length: 10000000000000000000", 400),
        (b"Content-Length: " + b"9" * 500, 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: identity", 400),
        (b"Transfer-Encoding: identity", 501),
        (b"Transfer-Encoding: gzip", 501),
        (b"Transfer-Encoding: gzip, chunked", 501),
        (b"Transfer-Encoding: chunked, gzip", 501),
        (b"Transfer-Encoding: chunked, chunked", 501),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 501),
        (b"Transfer-Encoding: xchunked", 501),
        (b"Transfer-Encoding: chunked;q=1", 501),
        (b'Transfer-Encoding: "chunked"', 501),
        (b"Transfer-Encoding:", 501),
        (b"Transfer-Encoding: \x0bchunked", 400),
        (b"Transfer-Encoding : chunked", 400),
        (b"Transfer-Encoding\r\n : chunked", 400),
    ],
)
def test_doubtful_framing_is_refused(fields: bytes, status: int) -> None:
    """Refuse a body whose length two programs might read in two ways."""
    assert refusal(POST + fields) == status


def test_two_lengths_of_a_body_are_named() -> None:
    """The client learns what is wrong with its framing."""
    head = http1.parse_head(POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5")
    with pytest.raises(HTTPError, match=r"^The body's length is given in two ways\.$"):
        http1.body_length(head)


def test_chunked_from_an_http_1_0_client_is_refused() -> None:
    """Refuse a coding that HTTP/1.0 does not have."""
    assert refusal(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked") == 400


def test_a_field_that_may_come_once_is_refused_twice_without_its_value() -> None:
    """Name the header, and repeat nothing that was sent."""
    head = http1.parse_head(GET + b"\r\nHost: evil.example")
    with pytest.raises(HTTPError, match=r"^The header host came more than once\.$") as caught:
        head.single_header("host")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"GET / HTTP/1.1", True),
        (b"GET / HTTP/1.1\r\nConnection: keep-alive", True),
        (b"GET / HTTP/1.1\r\nConnection: Close", False),
        (b"GET / HTTP/1.1\r\nConnection: TE, close", False),
        (b"GET / HTTP/1.1\r\nConnection: TE\r\nConnection: close", False),
        (b"GET / HTTP/1.1\r\nConnection: closer", True),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive", False),
    ],
)
def test_a_connection_is_kept_unless_the_client_objects(head: bytes, keep_alive: bool) -> None:
    """Keep HTTP/1.1 open and HTTP/1.0 not."""
    assert http1.parse_head(head).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("head", "expects"),
    [
        (b"POST / HTTP/1.1\r\nExpect: 100-Continue", True),
        (b"POST / HTTP/1.1\r\nExpect: something", False),
        (b"POST / HTTP/1.1", False),
        (b"POST / HTTP/1.0\r\nExpect: 100-continue", False),
    ],
)
def test_only_http_1_1_is_told_to_continue(head: bytes, expects: bool) -> None:
    """Send no interim answer to clients that cannot know it."""
    assert http1.parse_head(head).expects_continue is expects


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b"0", 0),
        (b"a", 10),
        (b"1F", 31),
        (b"ffffffff", 0xFFFFFFFF),
        (b"00000005", 5),
        (b"5 \t", 5),
        (b'5;name="value"', 5),
        (b"5 ;name", 5),
        (b"5;", 5),
    ],
)
def test_a_chunk_size_is_read(line: bytes, size: int) -> None:
    """Read hexadecimal sizes and skip extensions."""
    assert http1.chunk_size(line) == size


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b" ", b" 5", b"-1", b"+5", b"0x5", b"5_0", b"5 0", b"g", b"5,5", b"\xb2"),
        *(b"000000005", b"100000000", b"5\r", b"5\n", b"5;a\rb", b"5;a\nb", b"5\x00", b";5"),
    ],
)
def test_a_doubtful_chunk_size_is_refused(line: bytes) -> None:
    """Refuse signs, prefixes, underscores, control characters and more than eight digits."""
    with pytest.raises(HTTPError) as caught:
        http1.chunk_size(line)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("data", "framed"),
    [
        (b"a", b"1\r\na\r\n"),
        (b"0123456789", b"a\r\n0123456789\r\n"),
        (b"\r\n" * 128, b"100\r\n" + b"\r\n" * 128 + b"\r\n"),
    ],
)
def test_bytes_are_framed_as_one_chunk(data: bytes, framed: bytes) -> None:
    """Write size, data and line ends."""
    assert http1.chunk(data) == framed


@pytest.mark.parametrize(("keep_alive", "connection"), [(True, b"keep-alive"), (False, b"close")])
def test_a_response_head_is_these_bytes(keep_alive: bool, connection: bytes) -> None:
    """Write status, fields, nosniff and the connection's fate, and no Server."""
    fields = [("Allow", "GET"), ("Content-Length", "2")]
    assert http1.response_head(405, fields, keep_alive=keep_alive) == (
        b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 2\r\n"
        b"X-Content-Type-Options: nosniff\r\nConnection: " + connection + b"\r\n\r\n"
    )


def test_a_response_head_is_latin_1_whatever_is_in_it() -> None:
    """Write a question mark for other characters, as a header cannot hold them."""
    head = http1.response_head(200, [("X-Name", "café 嗨")], keep_alive=True)
    assert b"\r\nX-Name: caf\xe9 ?\r\n" in head


@pytest.mark.parametrize("status", [200, 204, 400, 403, 404, 408, 413, 421, 429, 431, 501, 505])
def test_every_status_we_use_has_a_phrase(status: int) -> None:
    """Write a status line that old clients read."""
    line = http1.response_head(status, (), keep_alive=False).partition(b"\r\n")[0]
    assert line.startswith(b"HTTP/1.1 %d " % status)
    assert len(line) > len("HTTP/1.1 200 ")
