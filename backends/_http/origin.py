"""Where requests go: scheme, host and port, and the proxy of the environment on the way. No I/O."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

PORTS = {"http": 80, "https": 443}


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
        return found._replace(proxy=_proxy_for(found))

    @property
    def authority(self) -> str:
        """Return host and port as a Host header has them: without the scheme's default port."""
        if self.port == PORTS[self.scheme]:
            return f"[{self.host}]" if ":" in self.host else self.host
        return join_host_and_port(self.host, self.port)


def _proxy_for(origin: Origin) -> str:
    proxies: Mapping[str, str] = getproxies_environment()
    host_and_port = f"{origin.host}:{origin.port}"
    if is_loopback(origin.host) or proxy_bypass_environment(host_and_port):
        return ""
    proxy = proxies.get(origin.scheme) or proxies.get("all") or ""
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine: what is sent there cannot be read on the way."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
