"""An executor that answers whatever bytes a test wants, and remembers what it was asked."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNKED = b"Content-Type: text/plain; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"


class Executor(ThreadingHTTPServer):
    """A `with` block during which it listens at `url`; status, fields and body may be changed.

    first: what is sent before it waits for `go_on` and sends the body.
    """

    daemon_threads, block_on_close = True, False
    first = b""
    answers_status = False
    status, fields, body = b"200 OK", CHUNKED, b"2\r\nhi\r\n0\r\n\r\n"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.requests: list[tuple[str, str]] = []  # "GET /path", the header fields
        self.bodies: list[bytes] = []
        self.go_on = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Executor:
        """Answer from now on."""
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self.go_on.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Executor

    def log_message(self, *_: Any) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        """Answer what the test chose; at /status if it says so: executors of Kuwa have none."""
        if self.path == "/status" and not self.server.answers_status:
            return self.send_error(404)
        return self.do_POST()

    def do_POST(self) -> None:
        """Answer what the test chose."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((f"{self.command} {self.path}", str(self.headers)))
        self.server.bodies.append(body)
        head = b"HTTP/1.1 %s\r\n%s\r\n" % (self.server.status, self.server.fields)
        self.wfile.write(head + self.server.first)
        if self.server.first:
            self.server.go_on.wait()
        self.wfile.write(self.server.body)


def chunk(text: str) -> bytes:
    """Frame a chunk of a body."""
    data = text.encode()
    return b"%x\r\n%s\r\n" % (len(data), data)
