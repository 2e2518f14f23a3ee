"""What a route gets and gives: requests, replies, streamed replies; and a client's limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from . import http1
from .delivery import Delivery

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class Limits(NamedTuple):
    """How much of everything a client may take: bytes, seconds, connections."""

    body_bytes: int = 8 << 20
    head_seconds: float = 10
    body_seconds: float = 20
    idle_seconds: float = 8
    send_seconds: float = 10
    connections: int = 1024


class Request(NamedTuple):
    """One complete request; its body is read already."""

    method: str
    path: str
    head: http1.Head
    body: bytes
    peer: str = ""  # the client's IP address
    own: str = ""  # ours, to which it connected

    def field(self, name: str) -> str | None:
        """Return the value of a header field, or None; several are joined with commas."""
        values = self.head.fields.get(name)
        return ", ".join(values) if values else None


class Reply(NamedTuple):
    """A complete answer."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    fields: tuple[tuple[str, str], ...] = ()
    after: Callable[[], None] | None = None  # called once the answer is sent, or could not be


class Streaming(NamedTuple):
    """A 200 whose body `produce` writes on the connection's thread; it must finish the delivery."""

    produce: Callable[[Delivery], None]
    content_type: str


Route = Callable[[Request], "Reply | Streaming"]
Routes = Mapping[str, Mapping[str, Route]]  # path -> method -> what answers


def message(status: int, text: str, fields: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Answer with the short JSON sentence that the Kernel shows to people, without spaces."""
    body = json.dumps({"msg": text}, ensure_ascii=False, separators=(",", ":"))
    return Reply(status, body.encode(), JSON, fields)
