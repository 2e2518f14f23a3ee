"""Decide which executors may join the embedded Kernel, so that it is no way into other machines.

A Kernel sends requests to whatever endpoint was registered. From other machines it takes only the
hosts that the operator names; an endpoint on this machine must be registered from this machine.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kuwa_min.process.deadline import look_up

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    Network = IPv4Network | IPv6Network

LOOK_UP_SECONDS = 5.0


class ExecutorHosts:
    """Know this machine, and the hosts that the operator names.

    named: names in lower case, addresses, networks.
    """

    def __init__(self, named: Collection[str] = ()) -> None:
        self._named = named
        self._networks: list[Network] | None = None

    def address_of(self, endpoint: str, peer: str) -> str | None:
        """Return where to connect to for an endpoint, None if it may not join; may block.

        endpoint: a URL. peer: the IP address from which it is registered. The name of a host that
        the operator did not name is resolved now, once: it may stand for another address later.
        """
        host = (urlsplit(endpoint).hostname or "").lower()
        if host in self._named:
            return host
        try:
            found = [str(target[0]) for *_, target in look_up(host, 0, LOOK_UP_SECONDS)]
        except OSError:
            return None
        is_here = _is_ours(_parse(peer))
        return found[0] if found and all(self._is_allowed(one, is_here) for one in found) else None

    def _is_allowed(self, text: str, is_here: bool) -> bool:
        address = _parse(text)
        if self._networks is None:
            self._networks = [_network(one) for one in self._named if "/" in one or _is_ip(one)]
        return any(address in one for one in self._networks) or (is_here and _is_ours(address))


def _network(text: str) -> Network:
    from ipaddress import ip_network  # takes long to import, seldom needed

    return ip_network(text, strict=False)


def _is_ip(text: str) -> bool:
    try:
        return bool(_network(text))
    except ValueError:
        return False


def _parse(text: str) -> IPv4Address | IPv6Address:
    """Parse an IP address without its zone; an IPv4-mapped one as IPv4."""
    from ipaddress import ip_address

    found = ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def _is_ours(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is one of this machine: only then can a socket be bound to it."""
    if address.is_loopback:
        return True
    if address.is_unspecified or address.is_multicast:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
