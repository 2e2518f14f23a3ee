"""What a route takes and returns: requests and responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

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
    peer: str = ""  # the client's IP address
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


class StreamingResponse(NamedTuple):
    """A 200 whose body is streamed.

    `produce` is called on the connection's thread, also if the client has left by then. It returns
    when the body is finished; an exception truncates the body and ends the connection.
    """

    produce: Callable[[BodyWriter], None]
    content_type: str


Route = Callable[[Request], "Response | StreamingResponse"]


class CheckedRoute(NamedTuple):
    """A route that looks at a request's head before the body is read.

    check: raises HTTPError to refuse the request; its body is dropped as it comes.
    """

    route: Route
    check: Callable[[http1.RequestHead], None]


Routes = Mapping[str, Mapping[str, "Route | CheckedRoute"]]  # path -> method -> route


def json_message(status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Make the JSON object of one sentence that the Kernel's clients show to the user."""
    body = json.dumps({"msg": text}, ensure_ascii=False, separators=(",", ":"))
    return Response(status, body.encode(), JSON, headers)
