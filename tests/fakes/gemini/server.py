"""A fake Gemini service: responds as a test says, streams an array, and records requests."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

TIMEOUT = 60  # seconds


class RecordedRequest(NamedTuple):
    """A request: the path, its fields in lower case, the JSON of its body, the other's port."""

    path: str
    fields: dict[str, str]
    body: dict[str, Any]
    port: int

    @property
    def key(self) -> str:
        """Return the key that came with it."""
        return self.fields["x-goog-api-key"]

    @property
    def said(self) -> list[tuple[str, str]]:
        """Return who says what."""
        return [
            (one["role"], "".join(part.get("text", "<picture>") for part in one["parts"]))
            for one in self.body["contents"]
        ]


class Handler(BaseHTTPRequestHandler):
    """One request and its response, for the function of the test that writes it."""

    protocol_version = "HTTP/1.1"
    server: Service

    def log_message(self, *_: Any) -> None:
        """Be quiet."""

    def do_POST(self) -> None:
        """Let the test's function respond."""
        fields = {name.lower(): value for name, value in self.headers.items()}
        body = json.loads(self.rfile.read(int(fields["content-length"])))
        self.asked = RecordedRequest(self.path, fields, body, self.client_address[1])
        self.server.asked.append(self.asked)
        self.number = len(self.server.asked)
        self._objects = 0
        with contextlib.suppress(OSError):
            self.server.talk(self)

    def refuse(self, status: int, error: Any, **fields: str) -> None:
        """Send an error at once: an object as Google wraps it, or bytes as they are."""
        data = error if isinstance(error, bytes) else json.dumps([{"error": error}]).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def begin(self, **fields: str) -> None:
        """Send the head of a stream."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def raw(self, data: bytes) -> None:
        """Send one chunk."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def send_object(self, one: dict[str, Any]) -> None:
        """Send an object of the array in a chunk of its own."""
        self.raw((",\r\n" if self._objects else "[").encode() + json.dumps(one, indent=2).encode())
        self._objects += 1

    def say(self, *texts: str) -> None:
        """Send pieces of text."""
        for text in texts:
            self.send_object(piece(text))

    def end(self, reason: int | str = 1, **usage: int) -> None:
        """End the array and the stream, for this reason; 1 is STOP."""
        last: dict[str, Any] = {"candidates": [{"index": 0, "finishReason": reason}]}
        self.send_object({**last, "usageMetadata": usage} if usage else last)
        self.close_array()

    def close_array(self) -> None:
        """End the array and the stream without a word."""
        self.raw(b"\n]" if self._objects else b"[]")
        self.wfile.write(b"0\r\n\r\n")

    def tell(self, *texts: str, reason: int | str = 1, **usage: int) -> None:
        """Send a whole answer."""
        self.begin()
        self.say(*texts)
        self.end(reason, **usage)

    def wait_until_gone(self) -> None:
        """Say that this waits; wait until the other side leaves, and note it."""
        self.server.waits.set()
        self.connection.settimeout(TIMEOUT)
        with contextlib.suppress(ConnectionError):
            if self.connection.recv(1):
                return
        self.server.gone.set()
        self.close_connection = True

    def break_off(self) -> None:
        """Close the connection in the middle."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def piece(text: str) -> dict[str, Any]:
    """Return the object that brings a piece of text."""
    return {"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}]}


class Service(ThreadingHTTPServer):
    """The service: where it is, what it was asked, whether a client left it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, talk: Callable[[Handler], None], tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.talk, self.asked = talk, list[RecordedRequest]()
        self.waits, self.gone = threading.Event(), threading.Event()
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def handle_error(self, *_: Any) -> None:
        """Be quiet about those who leave."""

    @property
    def url(self) -> str:
        """Return what --api_endpoint is to be."""
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"


@contextmanager
def gemini_server(
    talk: Callable[[Handler], None], *, tls: ssl.SSLContext | None = None
) -> Iterator[Service]:
    """Serve for the length of a test."""
    service = Service(talk, tls)
    thread = threading.Thread(target=service.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
        thread.join(20)
