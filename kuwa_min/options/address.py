"""Parse ports, hosts, URLs and paths of the command line. No sockets here."""

from __future__ import annotations

import argparse
import os
import re
from urllib.parse import urlsplit

RESERVED_PATHS = ("/health", "/metrics", "/status", "/shutdown", "/v1")  # the executor's own routes
APP_ORIGIN = re.compile(r"(?!https?:|file:)[a-z][a-z0-9+.-]{1,30}://[a-z0-9._:-]{1,250}")
DEFAULT_PORTS = {"http": 80, "https": 443}  # which no browser writes in an origin
PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+")
HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")


def port_number(text: str) -> int:
    """Parse a port, 0 to 65535."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def host_name(text: str) -> str:
    """Parse a host name or IP address; brackets around IPv6 are removed."""
    name = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not (_is_ipv6(name) if ":" in name else HOST.fullmatch(name)):
        raise argparse.ArgumentTypeError(f"a host name or IP address is needed, not {text!r}")
    return name


def _is_ipv6(name: str) -> bool:
    from ipaddress import AddressValueError, IPv6Address  # takes long to import, seldom needed

    try:
        IPv6Address(name.partition("%")[0])
    except AddressValueError:
        return False
    return True


def host_or_network(text: str) -> str:
    """Parse a host name, an IP address, or a network such as 192.168.1.0/24."""
    if "/" not in text:
        return host_name(text).lower()
    from ipaddress import ip_network

    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a host, or a network such as 192.168.1.0/24, is needed, not {text!r}"
        ) from None


def web_address(text: str) -> str:
    """Parse a base URL, http or https, without user, query and fragment."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        usable = usable and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable or not text.isascii() or re.search(r"[\s?#]", text):
        raise argparse.ArgumentTypeError(
            f"a URL such as http://127.0.0.1:9000/, without user, ? and #, is needed, not {text!r}"
        )
    return text


def web_origin(text: str) -> str:
    """Parse the origin of a web site as browsers send it, or *.

    Extensions and desktop programs have schemes of their own: app://obsidian.md.
    """
    if text == "*":
        return text
    origin = text.rstrip("/").lower()
    if APP_ORIGIN.fullmatch(origin):
        return origin
    origin = web_address(origin)
    for scheme, port in DEFAULT_PORTS.items():
        if origin.startswith(f"{scheme}:"):
            origin = origin.removesuffix(f":{port}")
    if urlsplit(origin).path:
        raise argparse.ArgumentTypeError(
            f"an origin such as https://chat.example.org is needed, without a path, not {text!r}"
        )
    return origin


def chat_path(text: str) -> str:
    """Parse the path of the chat endpoint; `auto` returns one with 128 random bits."""
    if text == "auto":
        return f"/{os.urandom(16).hex()}/chat"
    path = "/" + text.strip("/")
    if not PATH.fullmatch(path):
        raise argparse.ArgumentTypeError(f"a path such as /chat is needed, not {text!r}")
    if f"/{path.split('/')[1]}" in RESERVED_PATHS:
        raise argparse.ArgumentTypeError(f"{path} is taken by the executor itself")
    return path


def host_and_port(text: str) -> tuple[str, int]:
    """Parse HOST:PORT; IPv6 needs brackets."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"HOST:PORT is needed, not {text!r}")
    return host_name(host), port_number(port)


def join_host_port(host: str, port: int) -> str:
    """Return host:port as in URLs, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
