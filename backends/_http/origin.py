"""Where requests go: scheme, host and port, and the proxy of the environment on the way. No I/O."""

from __future__ import annotations

import base64
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from kuwa_min.options.proxies import PORTS, is_loopback, proxy_for


class Origin(NamedTuple):
    """Where requests go, and through which proxy."""

    scheme: str
    host: str
    port: int
    proxy: str = ""  # its URL; empty: none

    @classmethod
    def of(cls, scheme: str, host: str, port: int | None) -> Origin:
        """Return an origin with the proxy that the environment names for it."""
        found = cls(scheme, host, port or PORTS[scheme])
        return found._replace(proxy=proxy_for(scheme, host, found.port))

    @property
    def authority(self) -> str:
        """Return host and port as a Host header has them: without the scheme's default port."""
        if self.port == PORTS[self.scheme]:
            return f"[{self.host}]" if ":" in self.host else self.host
        return join_host_and_port(self.host, self.port)


def is_cleartext(url: str) -> bool:
    """Tell whether what is sent to a URL can be read on the way: plain HTTP to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def join_host_and_port(host: str, port: int) -> str:
    """Return HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def proxy_credentials(proxy: str) -> list[tuple[str, str]]:
    """Return the header for the user and password in a proxy's URL, if it has them."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return []
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return [("Proxy-Authorization", f"Basic {base64.b64encode(pair).decode()}")]
