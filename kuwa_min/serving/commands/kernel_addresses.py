"""Tell whether a connection comes from the Kernel's host or from this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

FRESH_SECONDS = 60.0  # after which a lookup is repeated
LOOKUP_INTERVAL = 1.0  # seconds between two lookups because of unknown peers


class KernelAddresses:
    """The IP addresses of the Kernel's host; all methods are thread-safe.

    Looking a name up may take seconds. So a known peer never waits for that: `refresh`, to be
    called once it is answered, repeats an old lookup. An unknown peer waits for a new one.

    kernel_url: read at each lookup.
    """

    def __init__(self, kernel_url: Callable[[], str]) -> None:
        self._kernel_url = kernel_url
        self._lock = threading.Lock()  # held during a lookup
        self._known: frozenset[IPv4Address | IPv6Address] = frozenset()
        self._looked_up: float | None = None  # time.monotonic()

    def includes(self, peer: str, own: str = "") -> bool:
        """Tell whether a connection from this IP address is from this machine or the Kernel's host.

        own: our address of the connection: a Kernel on this machine connects from there if that is
        the address we registered. May take seconds for a peer that is not known.
        """
        try:
            address = _parse_ip(peer)
        except ValueError:
            return False
        if address.is_loopback or self._knows(address, own):
            return True
        self._look_up(LOOKUP_INTERVAL)
        return self._knows(address, own)

    def refresh(self) -> None:
        """Look the Kernel's host up again if the last time is long ago; may take seconds."""
        self._look_up(FRESH_SECONDS)

    def __str__(self) -> str:
        """Return the addresses for the log."""
        return ", ".join(sorted(map(str, self._known))) or "not known yet"

    def _knows(self, address: IPv4Address | IPv6Address, own: str) -> bool:
        if address in self._known:
            return True
        with contextlib.suppress(ValueError):
            return any(one.is_loopback for one in self._known) and address == _parse_ip(own)
        return False

    def _look_up(self, interval: float) -> None:
        """Look up unless the last time is less than an interval ago; a failure changes nothing."""
        with self._lock:
            if self._looked_up is not None and time.monotonic() - self._looked_up < interval:
                return
            with contextlib.suppress(OSError, ValueError):
                host = urlsplit(self._kernel_url()).hostname
                targets = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                self._known = frozenset(_parse_ip(str(target[0])) for *_, target in targets)
            self._looked_up = time.monotonic()


def _parse_ip(text: str) -> IPv4Address | IPv6Address:
    """Parse an IP address without its zone; an IPv4-mapped one as IPv4."""
    from ipaddress import ip_address

    found = ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found
