"""Parse URLs, and decide which of them may lead into a private network. No I/O."""

from __future__ import annotations

import posixpath
import string
from argparse import Namespace
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from kuwa_min.options.proxies import PORTS

from .sentences import LINK_BAD_ADDRESS

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# Kuwa's front end keeps uploads in /storage/root/homes/<user id>/ (0.4) or /storage/pdfs/ (0.3).
UPLOADS = "/storage/"


class LinkError(Exception):
    """Report why a link was not read, by one of sentences.LINK_*; its first gap is for the link.

    It tells nothing about our network: unknown names and private addresses read alike.
    """

    def __init__(self, sentence: str, *values: object) -> None:
        super().__init__(sentence.format("a link", *values))
        self.sentence, self._values = sentence, values

    def about(self, link: str) -> str:
        """Return the sentence about this link."""
        return self.sentence.format(link, *self._values)


class Target(NamedTuple):
    """A URL, parsed."""

    scheme: str
    host: str
    port: int
    path: str  # and query


class FetchPolicy(NamedTuple):
    """Which targets may have private addresses.

    Of the Kernel's host only uploads are allowed: the Kernel takes commands by GET, without a
    password.
    """

    allow_private: bool = False  # every target, but for the metadata services of clouds
    uploads: frozenset[tuple[str, int]] = frozenset()  # (host, port) as the operator named them
    kernel: frozenset[tuple[str, int]] = frozenset()  # (host, port) on the Kernel's host

    def names(self, target: Target) -> bool:
        """Tell whether the operator named the host of a target, which may have any address."""
        host_and_port = (target.host, target.port)
        return host_and_port in self.uploads or (
            host_and_port in self.kernel and _is_upload(target.path)
        )


def policy(args: Namespace) -> FetchPolicy:
    """Return the policy of --allow_private_urls, --upload_hosts and --kernel_url."""
    uploads = {
        (host.lower(), number)
        for host, port in args.upload_hosts
        for number in ((port,) if port else PORTS.values())
    }
    return FetchPolicy(args.allow_private_urls, frozenset(uploads), _kernel_hosts(args))


def _kernel_hosts(args: Namespace) -> frozenset[tuple[str, int]]:
    """Return the Kernel's host with its own port and those of a front end on that host."""
    if args.ignore_kernel or args.embedded_kernel:
        return frozenset()
    parts = urlsplit(args.kernel_url)
    host = parts.hostname or ""
    hosts = LOOPBACK if host in LOOPBACK else {host}
    ports = {*PORTS.values(), parts.port or PORTS[parts.scheme]}
    return frozenset((host, port) for host in hosts for port in ports)


def _is_upload(path: str) -> bool:
    """Tell whether a path leads to an upload; not if it has dot segments."""
    plain = unquote(path.partition("?")[0])
    return UPLOADS in plain and "\\" not in plain and posixpath.normpath(plain) == plain


def parse(url: str) -> Target:
    """Parse a URL; raises LinkError if it is not one of HTTP, or has credentials."""
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme.lower(), parts.port
        host = _ascii(parts.hostname or "")
    except ValueError:
        raise LinkError(LINK_BAD_ADDRESS) from None
    if scheme not in PORTS or not host or "@" in parts.netloc:
        raise LinkError(LINK_BAD_ADDRESS)
    return Target(scheme, host, PORTS[scheme] if port is None else port, _path(parts))


def _ascii(host: str) -> str:
    return host if host.isascii() else host.encode("idna").decode("ascii")


def _path(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe=string.punctuation)
    return f"{path}?{quote(parts.query, safe=string.punctuation)}" if parts.query else path
