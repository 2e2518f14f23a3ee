"""The transport of OpenAI's SDK: its requests over our own pool. Knows nothing of OpenAI.

The SDK sends through httpx2 (httpx in older ones), which follows redirects. The connections are
ours: no thread can cancel what waits in theirs, they hand a chunked body out one chunk a read, and
decompress without a limit. No redirect leads to another origin: httpx would take the chat along.
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
from backends._http.transport_errors import ConnectionFailed, Failure

# method, status, place (empty: it cannot be read), whether that is on the service's origin
OnRedirect = Callable[[str, int, str, bool], None]

LONGEST_ERROR = 65536  # bytes of an error's body that are read
LONGEST_LIST = 16 << 20  # bytes of the list of models that are read
# The one that the SDK is built on: client.py has imported that.
httpx: Any = importlib.import_module("httpx2" if "httpx2" in sys.modules else "httpx")


class Body(httpx.SyncByteStream):  # type: ignore[misc]
    """A response's body as httpx reads it. Raises ConnectionFailed, which httpx lets through."""

    def __init__(self, response: Response, method: str) -> None:
        self._response = response
        whole = LONGEST_LIST if method == "GET" else sys.maxsize
        self._remaining = LONGEST_ERROR if response.status >= 400 else whole

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body as it comes."""
        while self._remaining > 0 and (data := self._response.read()):
            self._remaining -= len(data)
            yield data

    def close(self) -> None:
        """Return the connection to the pool, or close it in the middle of the response."""
        self._response.close()


def _timeouts(method: str, seconds: dict[str, float | None]) -> Timeouts:
    """Return the limits of a request; a list of models has one for all of it."""
    read = seconds.get("read")
    return Timeouts(seconds.get("connect"), read, total=read if method == "GET" else None)


class Transport(httpx.BaseTransport):  # type: ignore[misc]
    """Send the SDK's requests over our own pool. Raises ConnectionFailed."""

    def __init__(self, base_url: str, on_redirect: OnRedirect) -> None:
        """base_url: of the service, whose origin alone is sent to.

        on_redirect: is called before a redirect is followed; may raise ConnectionFailed.
        """
        self._pool, self._on_redirect = ConnectionPool(), on_redirect
        self._origin = _origin(httpx.URL(base_url))

    def handle_request(self, request: Any) -> Any:
        """Send a request; return its response, whose body is still to come."""
        url, seconds = request.url, request.extensions.get("timeout", {})
        origin, raw = _origin(url), request.headers.raw
        if origin != self._origin:  # httpx may read a Location in another way than we do
            raise ConnectionFailed(Failure.REDIRECT, "an odd redirect to another host")
        response = self._pool.send(
            Request(
                origin,
                request.method,
                url.raw_path.decode("ascii"),
                [(name.decode("ascii"), value.decode("latin-1")) for name, value in raw],
                request.read(),
            ),
            _timeouts(request.method, seconds),
        )
        found = httpx.Response(
            response.status,
            headers=response.headers,
            stream=Body(response, request.method),
            extensions={"coding": response.coding},
        )
        if found.status_code in redirects.STATUSES and "location" in found.headers:
            self._redirected(request, found)
        return found

    def _redirected(self, request: Any, response: Any) -> None:
        url = str(request.url)
        place = redirects.place(url, response.headers["location"])
        stays = not redirects.leaves_origin(url, place)
        try:
            self._on_redirect(request.method, response.status_code, place, stays)
        except ConnectionFailed:
            response.close()
            raise

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()


def _origin(url: Any) -> Origin:
    return Origin.of(url.scheme, url.raw_host.decode("ascii"), url.port)
