"""Who may use /v1: programs of this machine, clients with a token, pages of named web sites.

Facts:
- A page reaches a server on its own machine by DNS rebinding: under a name of its own, which then
  stands in Host. No page can make a browser write localhost or an address there.
- A proxy on this machine connects from it, whoever its client is; most say so in a header.
- fetch() of Node sends headers that only browsers send otherwise.
- A browser asks before it sends JSON or a token to another site (CORS preflight: OPTIONS).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from kuwa_min.chat.sentence import language_of
from kuwa_min.errors import HTTPError, UsageError
from kuwa_min.httpd.http1 import RequestHead
from kuwa_min.httpd.messages import JSON, Request, Response, render_error
from kuwa_min.log import redaction
from kuwa_min.options.text_file import InvalidTextFile, read_text

from .errors import ApiError, error_json
from .response import Headers
from .sentences import NO_ENDPOINT, NO_TOKEN, NOT_FROM_THERE, WRONG_TOKEN

logger = logging.getLogger(__name__)

PREFIX = "/v1"
LONGEST_TOKEN = 4095  # characters
SHORT_TOKEN = 16  # characters; a shorter one may be guessed
PORT = re.compile(r":\d+$")
FIELD_NAMES = re.compile(r"[\w\-, ]{1,1000}", re.ASCII)
ANY_ORIGIN = "*"


def read_tokens(given: Sequence[str], path: str | None) -> list[str]:
    """Return the tokens of --api_token and of the lines of --api_token_file, and hide them.

    Raises UsageError for what cannot be a token.
    """
    sources = [("--api_token", one.strip()) for one in given]
    if path:
        try:
            lines = [line.strip() for line in read_text(path).splitlines()]
        except InvalidTextFile as error:
            raise UsageError(f"--api_token_file {path} {error}") from None
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UsageError(f"--api_token_file {path} has no token: one a line is needed")
        sources += [(f"--api_token_file {path}", line) for line in found]
    for source, token in sources:
        redaction.hide(token)
        if not is_token(token):
            raise UsageError(f"{source} holds no token: a token is one word of ASCII")
    if any(len(token) < SHORT_TOKEN for _, token in sources):
        logger.warning("an API token of less than %d characters may be guessed", SHORT_TOKEN)
    return [token for _, token in sources]


def is_token(text: str) -> bool:
    """Tell whether a text can be a token: one word of ASCII."""
    printable = text.isascii() and text.isprintable() and " " not in text
    return printable and 0 < len(text) <= LONGEST_TOKEN


class Access:
    """The rules of one executor.

    tokens: of which each request needs one; without any, none does. anywhere: requests may come
    from other machines. origins: of the web sites whose pages may use /v1, "*" for all.
    """

    def __init__(self, tokens: Sequence[str], origins: Sequence[str], *, anywhere: bool) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._origins = {origin.lower() for origin in origins}
        self._anywhere = anywhere
        self._logged: set[str] = set()

    def check(self, request: Request) -> str:
        """Return the name of the client for the queue; raises ApiError: 401 or 403."""
        self.check_peer(request)
        if not self._tokens:
            return request.peer
        scheme, _, token = (request.header("authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise ApiError(401, NO_TOKEN, code="invalid_api_key", WWW_Authenticate="Bearer")
        sent = token.strip().encode("utf-8", "replace")
        from hmac import compare_digest

        same = [compare_digest(sent, known) for known in self._tokens]
        if not any(same):
            self._log(request.peer, "its API token is not known")
            raise ApiError(401, WRONG_TOKEN, code="invalid_api_key", WWW_Authenticate="Bearer")
        return f"token {same.index(True)} {request.peer}"

    def check_peer(self, request: Request) -> None:
        """Raise ApiError with 403 for a request of another machine, if those are not allowed."""
        if self._anywhere or _is_of_this_machine(request):
            return
        self._log(
            request.peer,
            "only programs of this machine may, under the name localhost; --api on and "
            "--api_token_file open it to others, --api off closes it",
        )
        raise ApiError(403, NOT_FROM_THERE)

    def is_shared(self, head: RequestHead) -> bool:
        """Tell whether a page of the request's Origin may use /v1."""
        return _is_ours(head) and self._allows(_origin(head))

    def needs_token(self, head: RequestHead) -> bool:
        """Tell whether a request needs a token, which no page has that is not given one."""
        return _is_ours(head) and bool(self._tokens)

    def _allows(self, origin: str | None) -> bool:
        if origin is None:
            return False
        return origin.lower() in self._origins or ANY_ORIGIN in self._origins

    def render_error(self, error: HTTPError, head: RequestHead | None, text: str) -> Response:
        """Answer a refused request: of /v1, in OpenAI's shape."""
        if head is None or not _is_ours(head):
            return render_error(error, head, text)
        if error.status == 404 and not isinstance(error, ApiError):  # no such route
            accepted = ", ".join(head.headers.get("accept-language", []))
            text = NO_ENDPOINT.render(language_of(accepted))
        headers = (*error.headers.items(), *self.headers(head))
        code = error.code if isinstance(error, ApiError) else None
        param = error.param if isinstance(error, ApiError) else None
        body = error_json(error.status, text, param=param, code=code)
        return Response(error.status, body, JSON, headers)

    def headers(self, head: RequestHead) -> Headers:
        """Return the headers that let the page that sent a request read its response."""
        origin = _origin(head)
        if not self._origins:
            return ()
        if origin is None or not self._allows(origin):
            return (("Vary", "Origin"),)
        return (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))

    def preflight(self, request: Request) -> Headers:
        """Return the headers of the answer to a browser that asks before it sends a request."""
        asked = request.header("access-control-request-headers") or ""
        allowed = asked if FIELD_NAMES.fullmatch(asked) else "authorization, content-type"
        return (
            *self.headers(request.head),
            ("Access-Control-Allow-Methods", "GET, POST"),
            ("Access-Control-Allow-Headers", allowed),
            ("Access-Control-Max-Age", "600"),
        )

    def _log(self, peer: str, reason: str) -> None:
        """Tell the operator, once for each peer, and about the first few only."""
        if peer not in self._logged and len(self._logged) < 10:
            self._logged.add(peer)
            logger.warning("refused a request of /v1 from %s: %s", peer, reason)


def _is_ours(head: RequestHead) -> bool:
    return head.path == PREFIX or head.path.startswith(f"{PREFIX}/")


def _origin(head: RequestHead) -> str | None:
    origins = head.headers.get("origin", [])
    return origins[0] if len(origins) == 1 else None


def _is_of_this_machine(request: Request) -> bool:
    """Tell whether a program here sent this under one of the names of this machine itself."""
    head = request.head
    if head.is_forwarded or not (_is_loopback(request.peer) or request.peer == request.local):
        return False
    host = head.authority if head.authority is not None else request.header("host")
    name = "localhost" if host is None else PORT.sub("", host).lower().strip("[]")
    return name == "localhost" or _is_loopback(name) or name == request.local


def _is_loopback(text: str) -> bool:
    from ipaddress import ip_address

    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
