"""A service whose answers are not Gemini's."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

from .server import Handler, piece


def with_body(data: bytes) -> Callable[[Handler], None]:
    """Answer well, but with this body."""
    return lambda talk: talk.refuse(200, data)


def before_the_head(talk: Handler) -> None:
    """Send bytes that are no HTTP, and a secret among them."""
    talk.wfile.write(b"\x00\xff garbage " + talk.asked.key.encode() + b"\r\n\r\n")
    talk.break_off()


def elsewhere(talk: Handler) -> None:
    """Redirect to another address."""
    talk.refuse(302, b"", Location="http://127.0.0.1:9/")


def damaged_gzip(talk: Handler) -> None:
    """Say that it is compressed, which it is not."""
    talk.refuse(200, b"no gzip at all", Content_Encoding="gzip")


def squeezed(talk: Handler) -> None:
    """Answer well, compressed."""
    data = json.dumps([piece("squeezed"), {"candidates": [{"finishReason": "STOP"}]}])
    talk.refuse(200, gzip.compress(data.encode()), Content_Encoding="gzip")


def until_the_end(talk: Handler) -> None:
    """Answer well, in a body that ends with the connection."""
    talk.send_response(200)
    talk.send_header("Content-Type", "application/json")
    talk.send_header("Connection", "close")
    talk.end_headers()
    talk.wfile.write(json.dumps([piece("to the "), piece("end")]).encode())
    talk.close_connection = True
