"""The transport of OpenAI's SDK: its requests over our own pool. Knows nothing of OpenAI.

The SDK sends through httpx2 (httpx in older ones), which follows redirects and decodes bodies. The
connections are ours: no thread can cancel what waits in theirs, and they hand a chunked body out
one chunk a read.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from backends._http import redirects
from backends._http.connection import Request, Timeouts
from backends._http.origin import Origin
from backends._http.pool import ConnectionPool, Response
from backends._http.transport_errors import ConnectionFailed

OnRedirect = Callable[[str, int, str], None]  # method, status, place; empty: it cannot be read

LONGEST_ERROR = 65536  # bytes of an error's body that are read
# The one that the SDK is built on: client.py has imported that.
httpx: Any = importlib.import_module("httpx2" if "httpx2" in sys.modules else "httpx")


class Body(httpx.SyncByteStream):  # type: ignore[misc]
    """A response's body as httpx reads it. Raises ConnectionFailed, which httpx lets through."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._remaining = LONGEST_ERROR if response.status >= 400 else sys.maxsize

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body as it comes."""
        while self._remaining > 0 and (data := self._response.read()):
            self._remaining -= len(data)
            yield data

    def close(self) -> None:
        """Return the connection to the pool, or close it in the middle of the response."""
        self._response.close()


class Transport(httpx.BaseTransport):  # type: ignore[misc]
    """Send the SDK's requests over our own pool. Raises ConnectionFailed."""

    def __init__(self, on_redirect: OnRedirect) -> None:
        """on_redirect: is called before a redirect is followed; may raise ConnectionFailed."""
        self._pool, self._on_redirect = ConnectionPool(), on_redirect

    def handle_request(self, request: Any) -> Any:
        """Send a request; return its response, whose body is still to come."""
        url, seconds = request.url, request.extensions.get("timeout", {})
        raw = request.headers.raw
        response = self._pool.send(
            Request(
                Origin.of(url.scheme, url.raw_host.decode("ascii"), url.port),
                request.method,
                url.raw_path.decode("ascii"),
                [(name.decode("ascii"), value.decode("latin-1")) for name, value in raw],
                request.read(),
            ),
            Timeouts(seconds.get("connect"), seconds.get("read")),
        )
        found = httpx.Response(response.status, headers=response.headers, stream=Body(response))
        if found.status_code in redirects.STATUSES and "location" in found.headers:
            self._redirected(request, found)
        return found

    def _redirected(self, request: Any, response: Any) -> None:
        place = redirects.place(str(request.url), response.headers["location"])
        try:
            self._on_redirect(request.method, response.status_code, place)
        except ConnectionFailed:
            response.close()
            raise

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()
