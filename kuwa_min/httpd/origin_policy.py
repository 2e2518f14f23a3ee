"""Tell what web page caused a request, and refuse other sites' pages: CSRF and DNS rebinding.

Facts that this module builds on:
- A page cannot remove or change the headers by which its browser is known. Every browser since 2020
  sends Origin with a POST, and Sec-Fetch-Site to addresses that it trusts: HTTPS and loopback.
- A GET of a page on a rebound name carries neither, but always Accept-Language, which no
  Prometheus, health check or Kernel sends with a GET. (With a POST, it is the Kernel's client's.)
- A GET that changes something is another matter: an <img> of any page on plain HTTP sends one,
  without Origin, and without Sec-Fetch-Site to addresses on the network. The Kernel sends such a
  GET by a library of Python, and forwards nothing with it. So one sign of a browser is enough to
  refuse it, also a sign that some programs have: `browser_sign`.
- The Kernel forwards its client's Host with a chat. So any name will do for a POST, unless it comes
  from a browser: then Host must be ours, which no DNS rebinding can arrange, and Origin the same.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
from collections.abc import Callable, Collection
from enum import Enum, auto

from kuwa_min.errors import HTTPError
from kuwa_min.log import redaction

from .http1 import RequestHead

logger = logging.getLogger(__name__)

LOGGED_NAMES = 10  # refused names that the log explains
PORT = re.compile(r":\d+$")
GET = ("GET", "HEAD")
# Of browsers and of the media players that they start, some of which send no Accept-Language
BROWSER_FIELDS = {
    "accept-language",
    "cookie",
    "dnt",
    "icy-metadata",
    "origin",
    "priority",
    "purpose",
    "range",
    "referer",
    "save-data",
    "upgrade-insecure-requests",
    "x-playback-session-id",
    "x-requested-with",
}
PAGE_TYPES = ("text/html", "application/xhtml", "text/css", "image/", "audio/", "video/", "font/")


class Initiator(Enum):
    """Which kind of client or page initiated a request."""

    PROGRAM = auto()  # not a browser
    SAME_ORIGIN = auto()  # a page of this server
    OTHER_ORIGIN = auto()  # a page of another web site
    BROWSER = auto()  # a browser that does not tell: its address bar, or any page


def initiator(head: RequestHead) -> Initiator:
    """Classify a request by its headers; raises HTTPError if one of them came twice."""
    origin = head.single_header("origin")
    if origin is not None:
        authority = _authority(origin)
        same = bool(authority) and authority == (_host(head) or "").lower()
        return Initiator.SAME_ORIGIN if same else Initiator.OTHER_ORIGIN
    site = head.single_header("sec-fetch-site")
    if site == "same-origin":
        return Initiator.SAME_ORIGIN
    if site in ("cross-site", "same-site"):
        return Initiator.OTHER_ORIGIN
    return Initiator.BROWSER if is_from_browser(head) else Initiator.PROGRAM


def is_from_browser(head: RequestHead) -> bool:
    """Tell whether a browser may have sent this."""
    if any(name == "origin" or name.startswith("sec-fetch-") for name in head.headers):
        return True
    agent = "".join(head.headers.get("user-agent", [])).lower()
    return agent.startswith("mozilla/") or (
        head.method != "POST" and "accept-language" in head.headers
    )


def browser_sign(head: RequestHead) -> str | None:
    """Return the header by which a GET looks like a browser's, None if it is a program's."""
    for name, values in head.headers.items():
        text = ",".join(values).lower()
        if name.startswith("sec-"):
            return "sec-*"
        if (
            name in BROWSER_FIELDS
            or (name == "user-agent" and text.startswith(("mozilla/", "opera/")))
            or (name == "accept" and any(kind in text for kind in PAGE_TYPES))
        ):
            return name
    return None


def _host(head: RequestHead) -> str | None:
    return head.authority if head.authority is not None else head.single_header("host")


def _authority(origin: str) -> str:
    return origin.lower().partition("://")[2]


class OriginPolicy:
    """Which Host and Origin the requests to one server may have.

    hosts: names that may stand in Host; localhost and every IP address may, too.
    origins: hosts of further web sites whose pages may send requests.
    any_host_paths: paths whose GET is answered under any Host, unless a browser sends it.
    is_shared: tells that a page of another web site may send this request.
    needs_token: tells that it is answered only with a token, so Host does not matter: a page that
    reaches us by DNS rebinding has none.
    """

    def __init__(
        self,
        hosts: Collection[str],
        origins: Collection[str],
        any_host_paths: Collection[str],
        is_shared: Callable[[RequestHead], bool] = lambda head: False,
        needs_token: Callable[[RequestHead], bool] = lambda head: False,
    ) -> None:
        self._is_shared, self._needs_token = is_shared, needs_token
        self._origins = {name.lower() for name in origins}
        self._hosts = {"localhost", *(name.lower() for name in hosts), *self._origins}
        self._any_host_paths = frozenset(any_host_paths)
        self._logged: set[str] = set()

    def check(self, head: RequestHead) -> None:
        """Raise HTTPError for a request that another web site's page may have sent."""
        host = _host(head)
        if host is None and not head.http10:
            raise HTTPError(400, "The request has no Host.")
        if not self._serves_any_host(head):
            self._check_host(host)
        self._check_origin(head)

    def _serves_any_host(self, head: RequestHead) -> bool:
        if self._needs_token(head):
            return True
        if is_from_browser(head):
            return False
        return head.method == "POST" or (head.method in GET and head.path in self._any_host_paths)

    def _check_host(self, host: str | None) -> None:
        name = PORT.sub("", host).lower() if host is not None else None
        if name is not None and not self._is_ours(name):
            self._log(name)
            raise HTTPError(421, "This host name is not known here; --allowed_hosts adds one.")

    def _is_ours(self, name: str) -> bool:
        if name in self._hosts:
            return True
        for family, literal in ((socket.AF_INET, name), (socket.AF_INET6, name.strip("[]"))):
            with contextlib.suppress(OSError, ValueError):
                socket.inet_pton(family, literal)
                return True
        return False

    def _check_origin(self, head: RequestHead) -> None:
        if initiator(head) is not Initiator.OTHER_ORIGIN or self._is_shared(head):
            return
        origin = head.single_header("origin")
        if origin is not None:
            name = PORT.sub("", _authority(origin))
            if name in self._origins:
                return
            self._log(name)
        raise HTTPError(403, "Requests from other web sites are refused.")

    def _log(self, name: str) -> None:
        """Tell the operator about a refused name, once, and about the first few names only."""
        if len(self._logged) < LOGGED_NAMES and name not in self._logged:
            self._logged.add(name)
            logger.warning(
                "requests for or from an unknown host %s are refused; --allowed_hosts would let "
                "them in, and with --log_content the log has its name",
                redaction.content(name),
            )
