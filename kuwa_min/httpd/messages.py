"""What a route takes and returns: requests and responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

from kuwa_min.errors import HTTPError

from . import http1
from .body_writer import BodyWriter

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class Request(NamedTuple):
    """One complete request."""

    method: str
    path: str
    head: http1.RequestHead
    body: bytes | bytearray
    peer: str = ""  # the client's IP address, never an IPv4-mapped one
    local: str = ""  # our IP address, to which it connected

    def header(self, name: str) -> str | None:
        """Return the value of a header field, or None; several values are joined with commas."""
        values = self.head.headers.get(name)
        return ", ".join(values) if values else None


class Response(NamedTuple):
    """A complete response."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    after: Callable[[], None] | None = None  # called when it is sent, or cannot be

    def encode(self, *, keep_alive: bool, head_only: bool = False) -> bytes:
        """Return the bytes of head and body."""
        headers = list(self.headers)
        if self.status != HTTPStatus.NO_CONTENT:
            headers += [("Content-Type", self.content_type)]
            headers += [("Content-Length", str(len(self.body)))]
        head = http1.response_head(self.status, headers, keep_alive=keep_alive)
        return head if head_only else head + self.body


class Beginning(NamedTuple):
    """How a streamed response begins that is decided late: its head, and the first frame."""

    status: int
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()
    frame: bytes = b""


class StreamingResponse(NamedTuple):
    """A 200 whose body is streamed.

    `produce` is called on the connection's thread, also if the client has left by then. It returns
    when the body is finished; an exception truncates the body and ends the connection. `begin`, if
    given, decides how the response begins: it is called once, on any thread, when the first bytes
    of the body are sent. Until then nothing is.
    """

    produce: Callable[[BodyWriter], None]
    content_type: str
    begin: Callable[[], Beginning] | None = None


Route = Callable[[Request], "Response | StreamingResponse"]


class CheckedRoute(NamedTuple):
    """A route that looks at a request before its body is read.

    check: called with an empty body; raises HTTPError to refuse the request, whose body is dropped
    as it comes.
    """

    route: Route
    check: Callable[[Request], None]


Routes = Mapping[str, Mapping[str, "Route | CheckedRoute"]]  # path -> method -> route


def json_message(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Make the JSON object of one sentence that the Kernel's clients show to the user."""
    body = json.dumps({"msg": text}, ensure_ascii=False, separators=(",", ":"))
    return Response(status, body.encode(), JSON, headers)


# Makes the response to a request that is refused: the error, the head if there is one, and the
# error's sentence in the client's language.
RenderError = Callable[[HTTPError, "http1.RequestHead | None", str], Response]


def render_error(error: HTTPError, head: http1.RequestHead | None, text: str) -> Response:
    """Answer with the JSON object of the error's sentence."""
    return json_message(error.status, text, tuple(error.headers.items()))
