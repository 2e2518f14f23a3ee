"""Addresses of this machine: which to register, and where to listen."""

from __future__ import annotations

import logging
import socket
from typing import Any
from urllib.parse import urlsplit

from kuwa_min.errors import StartError

logger = logging.getLogger(__name__)

WILDCARD = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


def _resolve(host: str, port: int, kind: int) -> tuple[Any, ...]:
    """Resolve a host; as bytes, which spares Python the import of its IDNA codec."""
    return socket.getaddrinfo(host.encode() if host.isascii() else host, port, type=kind)[0]


def source_address(kernel_url: str) -> str:
    """Return this machine's address on the route to the Kernel; sends no packet.

    Raises StartError, which asks for --host, without a route or if the name does not resolve.
    """
    parts = urlsplit(kernel_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        family, kind, proto, _, target = _resolve(parts.hostname or "", port, socket.SOCK_DGRAM)
        with socket.socket(family, kind, proto) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartError(
            f"cannot tell which address of this machine the Kernel at {parts.hostname} can reach "
            f"({reason}); give it with --host"
        ) from None


def wildcard() -> str:
    """Return the wildcard address, of both IP versions where the system supports that."""
    return WILDCARD[socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET]


def listening_address(host: str | None, bind: str | None) -> str:
    """Return where to listen: --bind, or where the registered host leads; say it if they differ.

    host: None while the Kernel's name, and so our address on the way to it, is not known. Raises
    StartError if the host does not resolve and there is no --bind.
    """
    if host is None and bind is None:
        logger.warning(
            "the Kernel's name does not resolve yet: listening on all addresses; "
            "--bind ADDRESS chooses one"
        )
        return wildcard()
    address, is_ours = (bind, True) if bind else bind_address(host or "")
    if not is_ours:
        logger.warning(
            "--host %s is no address of this machine, so it must be that of a proxy or a port "
            "forwarding: listening on all addresses (%s); --bind ADDRESS chooses one",
            host,
            address,
        )
    elif host not in (None, address):
        logger.info("the Kernel is told %s; listening on %s", host, address)
    return address


def bind_address(host: str) -> tuple[str, bool]:
    """Return the address to listen on for a registered host, and whether the host is ours.

    That is its own address if it is this machine's, else the wildcard address: the host is that of
    a proxy or a port forwarding. Raises StartError if the host does not resolve here.
    """
    try:
        family, _, _, _, target = _resolve(host, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartError(
            f"--host {host} does not resolve on this machine ({reason}): give an address that the "
            f"Kernel can reach, or, if only the Kernel knows this name, say where to listen: "
            f"--bind {WILDCARD[socket.AF_INET]} is everywhere"
        ) from None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(target)
        except OSError:
            return WILDCARD[family], False
    return str(target[0]), True
