"""HTTP requests with the standard library, bounded in time and size.

As in Kuwa's own helpers, any http(s) URL that a user writes is requested, private hosts included;
the metadata services of clouds, which give out keys, are not.
"""

from __future__ import annotations

import ipaddress
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from kuwa_min.options import proxies
from kuwa_min.process import deadline

HEAD_TIMEOUT, TIMEOUT = 10.0, 30.0  # seconds for a HEAD and a GET, each redirection anew
MAX_BODY = 32 << 20  # bytes
CHUNK = 1 << 16  # bytes read at a time
METADATA = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.0.0/16",  # of most clouds
            "168.63.129.16/32",  # Azure
            "192.0.0.192/32",  # Oracle Cloud
            "100.100.100.200/32",  # Alibaba Cloud
            "fd00:ec2::254/128",  # AWS
            "fd20:ce::254/128",  # Google
            "fe80::/10",
        ),
    )
)


class _ProxyHandler(urllib.request.ProxyHandler):
    """Use the environment's proxies as all of this program does."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        """Leave a request alone that needs no proxy."""
        parts = urlsplit(req.full_url)
        port = parts.port or proxies.PORTS.get(parts.scheme, 0)
        if not port or not proxies.proxy_for(parts.scheme, parts.hostname or "", port):
            return None
        return super().proxy_open(req, proxy, type)


class _NoMetadata:
    """Refuse a connection to a metadata service before anything is asked of it."""

    sock: Any

    def connect(self) -> None:
        """Connect, and look where that led: the name alone does not tell."""
        super().connect()  # type: ignore[misc]
        peer = ipaddress.ip_address(self.sock.getpeername()[0].partition("%")[0])
        peer = getattr(peer, "ipv4_mapped", None) or peer
        if any(peer in network for network in METADATA):
            raise OSError("the metadata service of a cloud is not asked")


class _HTTPConnection(_NoMetadata, deadline.HTTPConnection):  # type: ignore[misc]
    pass


class _HTTPSConnection(_NoMetadata, deadline.HTTPSConnection):  # type: ignore[misc]
    pass


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        """Open a URL under one deadline; req.timeout is for all of the request."""
        return self.do_open(_HTTPConnection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        """Open a URL under one deadline; req.timeout is for all of the request."""
        return self.do_open(_HTTPSConnection, req)


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener of http and https alone: a redirect cannot lead to a file or to FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _ProxyHandler,
        urllib.request.UnknownHandler,
        _HTTPHandler,
        _HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _open(url: str, method: str, seconds: float) -> Any:
    request = urllib.request.Request(url, method=method, headers={"User-Agent": "kuwa-min"})
    return _opener().open(request, timeout=seconds)


def _mime_type(response: Any) -> str:
    return str(response.headers.get_content_type())


def head(url: str) -> str:
    """Return the MIME type of a URL; raises OSError or ValueError."""
    with _open(url, "HEAD", HEAD_TIMEOUT) as response:
        if "content-type" not in response.headers:
            raise ValueError(f"{url} does not say what it holds")
        return _mime_type(response)


def get(url: str, accepted: set[str]) -> bytes:
    """Return the body at a URL; raises OSError, or ValueError if its type is not accepted."""
    with _open(url, "GET", TIMEOUT) as response:
        mime_type = _mime_type(response)
        if mime_type not in accepted:
            raise ValueError(f"Unsupported mime type {mime_type}")
        body = bytearray()
        while chunk := response.read1(CHUNK):
            body += chunk
            if len(body) > MAX_BODY:
                raise ValueError(f"{url} holds more than {MAX_BODY} bytes")
    return bytes(body)
