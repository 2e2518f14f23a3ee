"""The environment's proxies: one rule for every connection that may use one.

`http_proxy`, `https_proxy` and `all_proxy` name them, in capitals as well; `no_proxy` the hosts to
reach without. Programs read `no_proxy` in many ways. Here an entry, of which commas or spaces
separate many, is one of
- `*`: every host;
- `example.com`, `.example.com` or `*.example.com`: the host and all below it;
- an address, or a range of them such as `10.0.0.0/8` or `fd00::/8`;
- `10.1.*`: a pattern;
each of them perhaps with a port behind it, such as `example.com:8443` or `[::1]:8443`, for that
port alone. A host is not looked up: ranges are for hosts that are named by their address. This
machine itself (localhost, 127.0.0.1, ::1) is always reached without a proxy.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from urllib.request import getproxies_environment

PORTS = {"http": 80, "https": 443}
PORT = re.compile(r"(\[.*\]|[^:]*):(\d{1,5})")


def proxy_for(scheme: str, host: str, port: int) -> str:
    """Return the URL of the proxy on the way to a host; empty: there is none."""
    proxies: dict[str, str] = getproxies_environment()
    if is_loopback(host) or is_excluded(host, port, proxies.get("no", "")):
        return ""
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine: what is sent there cannot be read on the way."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def is_excluded(host: str, port: int, no_proxy: str) -> bool:
    """Tell whether no_proxy names a host."""
    name = host.lower().strip("[]").rstrip(".")
    return any(_matches(name, port, entry) for entry in re.split(r"[,\s]+", no_proxy.lower()))


def _matches(host: str, port: int, entry: str) -> bool:
    entry = entry.rpartition("://")[2].rstrip("/")
    found = PORT.fullmatch(entry)
    if found:
        entry = found[1]
        if int(found[2]) != port:
            return False
    entry = entry.replace("[", "").replace("]", "").rstrip(".")
    address = _address(host)
    if address is not None:
        return fnmatch.fnmatchcase(host, entry) or _is_in_range(address, entry)
    domain = entry.removeprefix("*").removeprefix(".")
    if entry == "*" or (domain and (host == domain or host.endswith(f".{domain}"))):
        return True
    return "*" in entry and fnmatch.fnmatchcase(host, entry)


def _is_in_range(address: ipaddress.IPv4Address | ipaddress.IPv6Address, entry: str) -> bool:
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return address in network


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host is; one of IPv4 within IPv6 counts as of IPv4."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
