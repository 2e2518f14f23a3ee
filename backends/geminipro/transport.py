"""The transport of Google's SDK: its requests over our own pool. Knows nothing of Gemini.

The SDK sends through a session of requests, whose connections this transport adapter replaces: no
thread can cancel what waits in theirs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from backends._http import redirects
from backends._http.connection import Request, Timeouts
from backends._http.origin import Origin
from backends._http.pool import ConnectionPool, Response

TIMEOUTS = Timeouts(connect=10.0, read=300.0)  # seconds; models that think send none for minutes
READ_SIZE = 2**16  # bytes at a time, at most
LONGEST_ERROR = 2**16  # bytes of an error's body that are read


class MalformedResponse(Exception):
    """Say in half a sentence why an answer cannot be read, without quoting it."""


class TruncatedResponse(MalformedResponse):
    """An answer that ended before its end."""


class ErrorResponse(Exception):
    """A response whose status is not 200; its headers have names in lower case."""

    def __init__(
        self, status: int, headers: dict[str, str], body: bytes, redirects_to: str = ""
    ) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.headers, self.body = status, headers, body
        self.redirects_to = redirects_to  # a place; empty: none


class Transport(BaseAdapter):
    """Send a session's requests. Raises ConnectionFailed, MalformedResponse and ErrorResponse."""

    def __init__(self) -> None:
        super().__init__()
        self._pool = ConnectionPool()

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        """Send a request once; return its response, whose body is still to come.

        A redirect is an error: it would take the key elsewhere.
        """
        response = self._pool.send(_convert(request), TIMEOUTS)
        body = HTTPResponse(Body(response), response.headers, preload_content=False)
        if response.status != 200:
            raise _error_response(request.url or "", response, body)
        found = requests.Response()
        found.status_code, found.raw = response.status, body
        found.headers.update(response.headers)
        found.headers["content-encoding"] = response.coding
        return found

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()


class Body(io.RawIOBase):
    """A response's body as urllib3 reads it."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def read1(self, _: int = -1) -> bytes:
        """Return what has come, waiting for it; b"" at the end. Raises ConnectionFailed."""
        return self._response.read()

    def close(self) -> None:
        """Return the connection to the pool, or close it in the middle of the response."""
        self._response.close()
        super().close()


def _convert(request: requests.PreparedRequest) -> Request:
    parts = urlsplit(request.url)
    origin = Origin.of(parts.scheme, parts.hostname or "", parts.port)
    fields = [pair for pair in request.headers.items() if pair[0].lower() != "accept-encoding"]
    # Compression delays pieces.
    headers = [("Host", origin.authority), ("Accept-Encoding", "identity"), *fields]
    body = request.body.encode() if isinstance(request.body, str) else request.body or b""
    return Request(origin, request.method or "", request.path_url, headers, body)


def iter_body(body: HTTPResponse) -> Iterator[bytes]:
    """Yield a body as it comes; raises ConnectionFailed."""
    while data := body.read1(READ_SIZE):
        yield data


def _error_response(url: str, response: Response, body: HTTPResponse) -> ErrorResponse:
    start = b""
    with body:
        for data in iter_body(body):
            start += data
            if len(start) >= LONGEST_ERROR:
                break
    headers = {name.lower(): value for name, value in response.headers}
    location = headers.get("location", "") if response.status in redirects.STATUSES else ""
    return ErrorResponse(
        response.status, headers, start, redirects.place(url, location) if location else ""
    )
