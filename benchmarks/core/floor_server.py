"""Serve the debug executor's bytes from bare sockets and threads: no checks, no limits, no slots.

It is the floor that ours is measured against, not a server to copy.
"""

import argparse
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
HEALTHY = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
END = b"0\r\n\r\n"
COALESCED_BYTES = 65536

Pieces = Callable[[str, float], Iterator[bytes]]


def one_by_one(text: str, delay: float) -> Iterator[bytes]:
    """Yield one chunk a character, `delay` seconds apart."""
    for character in text:
        yield b"1\r\n%c\r\n" % ord(character)
        if delay:
            time.sleep(delay)


def coalesced(text: str, delay: float) -> Iterator[bytes]:
    """Yield the same chunks in writes of 64 KiB: no server can hand them over faster."""
    chunks = b"".join(one_by_one(text, 0))
    for start in range(0, len(chunks), COALESCED_BYTES):
        yield chunks[start : start + COALESCED_BYTES]


def main() -> None:
    """Listen, and give every connection a thread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--coalesce", action="store_true")
    args = parser.parse_args()
    pieces = coalesced if args.coalesce else one_by_one
    with socket.create_server(("127.0.0.1", args.port), backlog=1024) as listener:
        while True:
            connection, _ = listener.accept()
            job = (connection, pieces, args.delay)
            threading.Thread(target=answer, args=job, daemon=True).start()


def answer(connection: socket.socket, pieces: Pieces, delay: float) -> None:
    """Answer the one request of a connection and close it."""
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head, body = receive(connection)
        if head.startswith(b"GET /health"):
            connection.sendall(HEALTHY)
            return
        try:
            stream(connection, pieces(last_message(body), delay))
        except ConnectionError:
            return


def stream(connection: socket.socket, pieces: Iterator[bytes]) -> None:
    """Send head, pieces and end, a write each."""
    connection.sendall(HEAD)
    for piece in pieces:
        connection.sendall(piece)
    connection.sendall(END)


def receive(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the head and the whole body of a request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    parts = [body]
    missing = _content_length(head) - len(body)
    while missing > 0:
        parts.append(_more(connection))
        missing -= len(parts[-1])
    return head, b"".join(parts)


def last_message(body: bytes) -> str:
    """Return the last message of the form's history."""
    message: str = json.loads(parse_qs(body.decode())["input"][0])[-1]["msg"]
    return message


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise SystemExit  # ends this thread only: the client left
    return data


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


if __name__ == "__main__":
    main()
