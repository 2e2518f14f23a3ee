"""A fake service of OpenAI's kind: responds as a test says, and records requests."""

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

MODELS: list[dict[str, Any]] = [{"id": "gpt-4o", "object": "model"}]


class RecordedRequest(NamedTuple):
    """A request: the path, its fields in lower case, the JSON of its body."""

    path: str
    fields: dict[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str:
        """Return the key that came with it."""
        return self.fields.get("authorization", "").removeprefix("Bearer ")

    @property
    def said(self) -> list[Any]:
        """Return what the messages hold."""
        return [one["content"] for one in self.body["messages"]]


class Handler(BaseHTTPRequestHandler):
    """One request and its response, for the function of the test that writes it."""

    protocol_version = "HTTP/1.1"
    server: Service

    def log_message(self, *_: Any) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        """List the models."""
        self._remember({})
        listed = {"object": "list", "data": self.server.models}
        self.answer(self.server.models_body or listed)

    def do_POST(self) -> None:
        """Let the test's function respond."""
        self._remember(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        with contextlib.suppress(OSError):
            self.server.talk(self)

    def _remember(self, body: dict[str, Any]) -> None:
        fields = {name.lower(): value for name, value in self.headers.items()}
        self.asked = RecordedRequest(self.path, fields, body)
        self.number = len(self.server.chats)
        self.server.asked.append(self.asked)

    def answer(self, body: Any, status: int = 200, **fields: str) -> None:
        """Send an answer at once: an object as JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", fields.pop("kind", "application/json"))
        self.send_header("Content-Length", str(len(data)))
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def begin(self, **fields: str) -> None:
        """Send the head of a stream."""
        self.send_response(200)
        fields = {"Content_Type": "text/event-stream; charset=utf-8", **fields}
        for name, value in {**fields, "Transfer_Encoding": "chunked"}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def raw(self, data: bytes) -> None:
        """Send one chunk."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def event(self, data: Any) -> None:
        """Send one event in a chunk of its own."""
        self.raw(b"data: " + json.dumps(data).encode() + b"\n\n")

    def say(self, *texts: str, finish: str | None = None, **more: Any) -> None:
        """Send pieces of text, and perhaps why they end."""
        for text in texts:
            self.event(piece(text, **more))
        if finish:
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})

    def end(self) -> None:
        """End a stream as it should be."""
        self.raw(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def tell(self, *texts: str, finish: str = "stop") -> None:
        """Send a whole answer."""
        self.begin()
        self.say(*texts, finish=finish)
        self.end()

    def wait_until_gone(self) -> None:
        """Wait until the other side leaves, and note it."""
        self.connection.settimeout(60)
        with contextlib.suppress(ConnectionError):
            if self.connection.recv(1):
                return
        self.server.gone.set()
        self.close_connection = True

    def break_off(self) -> None:
        """Close the connection in the middle."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def piece(text: str, **more: Any) -> dict[str, Any]:
    """Return the object that brings a piece of text."""
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": None}]}


class Service(ThreadingHTTPServer):
    """The service: where it is, what it was asked, whether a client left it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, talk: Callable[[Handler], None], tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.talk, self.asked = talk, list[RecordedRequest]()
        self.models = MODELS
        self.models_body: Any = None  # in place of the usual list
        self.gone = threading.Event()
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def handle_error(self, *_: Any) -> None:
        """Be quiet about those who leave."""

    @property
    def url(self) -> str:
        """Return what --base_url is to be."""
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def chats(self) -> list[RecordedRequest]:
        """Return the requests for chat completions."""
        return [one for one in self.asked if one.path.endswith("/chat/completions")]


@contextmanager
def openai_server(
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
