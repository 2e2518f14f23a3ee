"""Find out which address the Kernel is told, and where we listen."""

from __future__ import annotations

import argparse
import os
import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kuwa_min.errors import StartError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

EVERYWHERE = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
RESERVED_PATHS = ("/health", "/metrics", "/status", "/shutdown")
PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+")
HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")


def port_number(text: str) -> int:
    """Read a port from the command line."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def host_name(text: str) -> str:
    """Read a host name or address from the command line; brackets of IPv6 are taken off."""
    name = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not (_is_ipv6(name) if ":" in name else HOST.fullmatch(name)):
        raise argparse.ArgumentTypeError(f"a host name or IP address is needed, not {text!r}")
    return name


def _is_ipv6(name: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, name.partition("%")[0])
    except OSError:
        return False
    return True


def web_address(text: str) -> str:
    """Read an http(s) URL from the command line."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        usable = usable and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable or not text.isascii() or re.search(r"[\s?#]", text):
        raise argparse.ArgumentTypeError(
            f"a URL such as http://127.0.0.1:9000/ is needed, not {text!r}"
        )
    return text


def chat_path(text: str) -> str:
    """Read the chat endpoint's path; `auto` makes one that nobody can guess."""
    if text == "auto":
        return f"/{os.urandom(16).hex()}/chat"
    path = "/" + text.strip("/")
    if not PATH.fullmatch(path):
        raise argparse.ArgumentTypeError(f"a path such as /chat is needed, not {text!r}")
    if f"/{path.split('/')[1]}" in RESERVED_PATHS:
        raise argparse.ArgumentTypeError(f"{path} is taken by the executor itself")
    return path


def host_and_port(text: str) -> tuple[str, int]:
    """Read HOST:PORT from the command line."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"HOST:PORT is needed, not {text!r}")
    return host_name(host), port_number(port)


def join(host: str, port: int) -> str:
    """Return host:port as URLs write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _resolve(host: str, port: int, kind: int) -> tuple[Any, ...]:
    """Look a host up; bytes spare Python the import of its codec for names beyond ASCII."""
    return socket.getaddrinfo(host.encode() if host.isascii() else host, port, type=kind)[0]


def towards(kernel_url: str) -> str:
    """Return the local address that the Kernel sees us under; sends nothing."""
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


def everywhere() -> str:
    """Return where to listen on all addresses of this machine, of both families where it can."""
    return EVERYWHERE[socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET]


def may_command(peer: str, kernel_url: str, own: str = "") -> bool:
    """Tell whether a connection from this IP address is from this machine or the Kernel's host.

    own: our end of the connection. A Kernel on this machine that is told our address in the network
    comes from there. The Kernel's host is looked up now, which may take seconds: its address may
    have changed.
    """
    try:
        asking = _plain(peer)
        if asking.is_loopback:
            return True
        targets = socket.getaddrinfo(urlsplit(kernel_url).hostname, None, type=socket.SOCK_STREAM)
        known = {_plain(str(target[0])) for *_, target in targets}
        is_local = any(one.is_loopback for one in known)
        return asking in known or (is_local and asking == _plain(own))
    except (OSError, ValueError):
        return False


def _plain(text: str) -> IPv4Address | IPv6Address:
    """Parse an IP address without its zone, an IPv4 one in IPv6's clothes as what it is."""
    from ipaddress import ip_address

    found = ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def listening(host: str) -> str:
    """Return where to listen for a host that the Kernel is told: there if it is ours, else all."""
    try:
        family, _, _, _, target = _resolve(host, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return EVERYWHERE[socket.AF_INET]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(target)
        except OSError:
            return EVERYWHERE[family]
    return str(target[0])
