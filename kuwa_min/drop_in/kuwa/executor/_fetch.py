"""HTTP requests with the standard library, bounded in time and size.

As in Kuwa's own helpers, any http(s) address that a user writes is requested, also private ones.
"""

from __future__ import annotations

import time
import urllib.request
from typing import Any

TIMEOUT = 10.0  # seconds to connect, and to wait for more bytes
LIMIT_SECONDS = 30.0  # for a whole body
LIMIT_BYTES = 32 << 20
PIECE = 1 << 16


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener of http and https only: no files, no ftp, wherever a redirect leads."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _open(url: str, method: str) -> Any:
    request = urllib.request.Request(url, method=method, headers={"User-Agent": "kuwa-min"})
    return _opener().open(request, timeout=TIMEOUT)


def _mime_type(response: Any) -> str:
    return str(response.headers.get_content_type())


def head(url: str) -> str:
    """Return the MIME type of what an address holds; raises OSError or ValueError."""
    with _open(url, "HEAD") as response:
        if "content-type" not in response.headers:
            raise ValueError(f"{url} does not say what it holds")
        return _mime_type(response)


def get(url: str, accepted: set[str]) -> bytes:
    """Return what an address holds; raises OSError, or ValueError for a type not accepted."""
    deadline = time.monotonic() + LIMIT_SECONDS
    with _open(url, "GET") as response:
        mime_type = _mime_type(response)
        if mime_type not in accepted:
            raise ValueError(f"Unsupported mime type {mime_type}")
        body = bytearray()
        while piece := response.read1(PIECE):
            body += piece
            if len(body) > LIMIT_BYTES:
                raise ValueError(f"{url} holds more than {LIMIT_BYTES} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} took more than {LIMIT_SECONDS:g} s")
    return bytes(body)
