"""Send what Google's SDK writes over our own connection pool. Knows nothing of Gemini.

The SDK sends through a session of requests, which takes the place of its connections by a transport
adapter: requests' own hands bodies out late, and no thread can cancel what waits in it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse
from urllib3.exceptions import DecodeError

from ._gemini_stream import Garbage
from ._http_connection import Origin, Request, Timeouts
from ._http_pool import ConnectionPool, Response

TIMEOUTS = Timeouts(connect=10.0, read=300.0)  # models that think say nothing for minutes
READ_SIZE = 2**16  # bytes at a time, at most
LONGEST_REFUSAL = 2**16  # bytes


class Refused(Exception):
    """A response whose status is not 200; its headers have names in lower case."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.headers, self.body = status, headers, body


class Adapter(BaseAdapter):
    """Send a session's requests; raises ConnectionFailed, or Refused for a status but 200."""

    def __init__(self) -> None:
        super().__init__()
        self._pool = ConnectionPool()

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        """Send a request once; redirects are refused, too: they would take the key elsewhere."""
        response = self._pool.send(_request(request), TIMEOUTS)
        body = HTTPResponse(Body(response), response.headers, preload_content=False)
        if response.status != 200:
            with body:
                start = _read_start(body)
            headers = {name.lower(): value for name, value in response.headers}
            raise Refused(response.status, headers, start)
        answer = requests.Response()
        answer.status_code, answer.raw = response.status, body
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()


class Body(io.RawIOBase):
    """A response's body as urllib3 reads it, which undoes its compression."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def read1(self, _: int = -1) -> bytes:
        """Return what has come, waiting for it; b"" at the end. Raises ConnectionFailed."""
        return self._response.read()

    def close(self) -> None:
        """Return the connection to the pool, or close it in the middle of the response."""
        self._response.close()
        super().close()


def _request(request: requests.PreparedRequest) -> Request:
    parts = urlsplit(request.url)
    origin = Origin.of(parts.scheme, parts.hostname or "", parts.port)
    headers = [("Host", origin.authority), *request.headers.items()]
    body = request.body.encode() if isinstance(request.body, str) else request.body or b""
    return Request(origin, request.method or "", request.path_url, headers, body)


def read(body: HTTPResponse) -> Iterator[bytes]:
    """Yield a body as it comes; raises ConnectionFailed, and Garbage if it cannot be decoded."""
    try:
        while data := body.read1(READ_SIZE, decode_content=True):
            yield data
    except DecodeError:
        raise Garbage("it cannot be decompressed") from None


def _read_start(body: HTTPResponse) -> bytes:
    start = b""
    for data in read(body):
        start += data
        if len(start) >= LONGEST_REFUSAL:
            break
    return start
