"""Serve loops that know no HTTP: an order comes in, times and texts go out, one at a time."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from harness.process import HOST


def serve(answer: Callable[..., dict[str, Any]], port: int) -> None:
    """Call with what is posted, and return what comes of it; for ever."""
    HTTPServer((HOST, port), handler(answer)).serve_forever()


def handler(answer: Callable[..., dict[str, Any]]) -> type[BaseHTTPRequestHandler]:
    """Return what answers orders: one at a time."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def do_POST(self) -> None:
            order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(answer(**order)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
