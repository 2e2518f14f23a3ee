"""HTTP/1.1 framing, strictly: bytes to objects and back; no sockets here.

Facts: Python's own parser ends the headers at a line without a colon, takes the first of two
Content-Lengths, accepts folded lines, bare CR and LF, and answers 0.9 requests. Each of these
allows request smuggling: a proxy and the server see different requests in the same bytes. So the
head is parsed here, and what is ambiguous is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

from kuwa_min.errors import HTTPError

HEAD_LIMIT = 32 << 10  # bytes of request line and headers
HEADERS_LIMIT = 100  # of a head, and of a trailer
LINE_LIMIT = 4096  # bytes of a chunk-size or trailer line
CHUNKS_LIMIT = 64 << 10  # of a body: each costs time, however small it is
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e]+) HTTP/1\.([01])" % TOKEN)
OTHER_VERSION = re.compile(rb"%s [\x21-\x7e]+ HTTP/[0-9]+\.[0-9]+" % TOKEN)
FIELD_NAME = re.compile(TOKEN)
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
BARE_LF = re.compile(rb"(?<!\r)\n")
LENGTH = re.compile(r"[0-9]{1,19}")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[\t\x20-\x7e\x80-\xff]*)?")
CHUNKED = -1  # in place of a length
# Headers of proxies: nginx and Apache, load balancers, Cloudflare, Tailscale, Envoy
PROXY_FIELDS = {"cf-connecting-ip", "forwarded", "true-client-ip", "via"}
PROXY_PREFIXES = ("x-forwarded-", "x-real-ip", "x-client-ip", "x-envoy-", "tailscale-")


class RequestHead(NamedTuple):
    """The head of a request: method, path, and headers by lower-case name.

    The path has no query, which no route uses, and no slashes at its end: /chat/ is /chat.
    """

    method: str
    path: str
    authority: str | None  # of an absolute-form target; replaces Host
    http10: bool
    headers: dict[str, list[str]]

    def single_header(self, name: str) -> str | None:
        """Return the only value of a header, or None; raises HTTPError if there are several."""
        values = self.headers.get(name, [])
        if len(values) > 1:
            raise HTTPError(400, f"The header {name} came more than once.")
        return values[0] if values else None

    @property
    def keep_alive(self) -> bool:
        """Tell whether the connection may carry another request."""
        options = ",".join(self.headers.get("connection", [])).lower()
        return not self.http10 and "close" not in [word.strip() for word in options.split(",")]

    @property
    def is_forwarded(self) -> bool:
        """Tell whether a proxy says that it forwards this, so behind the peer is another client."""
        return any(name in PROXY_FIELDS or name.startswith(PROXY_PREFIXES) for name in self.headers)

    @property
    def expects_continue(self) -> bool:
        """Tell whether the client waits for 100 Continue before it sends the body."""
        return (
            not self.http10 and "100-continue" in ",".join(self.headers.get("expect", [])).lower()
        )


def parse_head(raw: bytes) -> RequestHead:
    """Parse a head without its final empty line; raises HTTPError for anything ambiguous."""
    first, *lines = raw.split(b"\r\n")
    found = REQUEST_LINE.fullmatch(first)
    if not found:
        raise HTTPError(505 if OTHER_VERSION.fullmatch(first) else 400)
    if len(lines) > HEADERS_LIMIT:
        raise HTTPError(431)
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, value = parse_field(line)
        headers.setdefault(name, []).append(value)
    path, authority = _split_target(found[2].decode())
    path = path.rstrip("/") or "/"
    return RequestHead(found[1].decode(), path, authority, found[3] == b"0", headers)


def parse_field(line: bytes) -> tuple[str, str]:
    """Parse a line of a head or a trailer to lower-case name and value; raises HTTPError."""
    name, colon, value = line.partition(b":")
    if not colon or not FIELD_NAME.fullmatch(name) or CONTROL.search(value):
        raise HTTPError(400)
    return name.decode().lower(), value.strip(b" \t").decode("latin-1")


def _split_target(target: str) -> tuple[str, str | None]:
    """Return path and authority of a request target, without its query."""
    if target.startswith("/"):
        return target.partition("?")[0], None
    if not target.lower().startswith(("http://", "https://")):
        raise HTTPError(404 if target == "*" else 400)
    try:
        parts = urlsplit(target)
    except ValueError:
        raise HTTPError(400) from None
    return parts.path or "/", parts.netloc


def body_length(head: RequestHead) -> int:
    """Return the body's length in bytes, or CHUNKED; raises HTTPError for ambiguous framing."""
    codings, length = head.headers.get("transfer-encoding"), head.single_header("content-length")
    if codings:
        if length is not None or head.http10:
            raise HTTPError(400, "The body's length is given in two ways.")
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise HTTPError(501)
        return CHUNKED
    if length is None:
        return 0
    if not LENGTH.fullmatch(length):
        raise HTTPError(400)
    return int(length)


def chunk_size(line: bytes) -> int:
    """Parse the first line of a chunk, without its end, to the chunk's size in bytes."""
    found = CHUNK_SIZE.fullmatch(line)
    if not found:
        raise HTTPError(400)
    return int(found[1], 16)


def chunk(data: bytes) -> bytes:
    """Frame bytes as one chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def response_head(status: int, headers: Iterable[tuple[str, str]], *, keep_alive: bool) -> bytes:
    """Return status line and headers, ending with the empty line."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += ["X-Content-Type-Options: nosniff"]
    lines += ["Connection: keep-alive" if keep_alive else "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
