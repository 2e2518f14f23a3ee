"""A fast service of OpenAI's kind: events are made in advance, each is a write of its own.

A process of its own, from bare sockets and threads. The first message of a chat says how many
pieces it wants and how many seconds apart: "5000 0". A piece is the moment at which it was written,
in nanoseconds of the machine's monotonic clock, where there is time to write that; else fixed.
"""

import argparse
import contextlib
import json
import socket
import threading
import time

from harness.process import HOST

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
HEALTHY = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
MODELS = json.dumps({"object": "list", "data": [{"id": "gpt-4o", "max_model_len": 128_000}]})
PIECE = "piece "  # as long as a token often is
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    with socket.create_server((HOST, parser.parse_args().port), backlog=512) as listener:
        while True:
            plug, _ = listener.accept()
            threading.Thread(target=serve, args=(plug,), daemon=True).start()


def serve(plug: socket.socket) -> None:
    """Answer the requests of one connection."""
    plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with plug, contextlib.suppress(OSError):
        while request := read(plug):
            head, body = request
            if head.startswith(b"GET /health"):
                plug.sendall(HEALTHY)
                return
            if head.startswith(b"GET"):
                plug.sendall(whole(MODELS.encode()))
            else:
                stream(plug, json.loads(body)["messages"][0]["content"])


def read(plug: socket.socket) -> tuple[bytes, bytes] | None:
    """Return head and body of the next request."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = plug.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0].strip() or b"0"
    while len(body) < int(length):
        body += plug.recv(65536)
    return head, body


def stream(plug: socket.socket, wish: str) -> None:
    """Send an answer."""
    count, pause = int(wish.split()[0]), float(wish.split()[1])
    plug.sendall(HEAD)
    ready = chunk(event(PIECE))
    for _ in range(count):
        if pause:
            time.sleep(pause)
            ready = chunk(event(f"{time.monotonic_ns()} "))
        plug.sendall(ready)
    plug.sendall(chunk(LAST) + b"0\r\n\r\n")


def event(text: str) -> bytes:
    """Return a piece as OpenAI sends it."""
    found = {
        "id": "chatcmpl-0123456789abcdefghijklmnopqrs",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "gpt-4o",
        "system_fingerprint": "fp_0123456789",
        "choices": [
            {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        ],
    }
    return b"data: " + json.dumps(found).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    """Return a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(body: bytes) -> bytes:
    """Return an answer of one piece."""
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    return f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode() + body


if __name__ == "__main__":
    main()
