"""A Kernel whose answers are not HTTP, or not the Kernel's words."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def _listening(reply: Callable[[socket.socket], None]) -> Iterator[str]:
    """Call this for each connection, one after the other, for the length of a test."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, contextlib.suppress(OSError):
                    reply(client)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def garbage_kernel(answer: bytes) -> Iterator[str]:
    """Answer every connection with the same bytes for the length of a test."""

    def reply(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(answer)

    with _listening(reply) as url:
        yield url


@contextmanager
def odd_table(table: bytes) -> Iterator[tuple[str, list[str]]]:
    """Run a Kernel that registers, and shows these bytes for its table; give what registered."""
    seen: list[str] = []

    def reply(client: socket.socket) -> None:
        head = client.recv(65536)
        if head.startswith(b"POST"):
            client.recv(65536) if head.endswith(b"\r\n\r\n") else None
            seen.append(head.decode().split()[1])
        post = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nSuccess"
        client.sendall(post if head.startswith(b"POST") else table)
        client.shutdown(socket.SHUT_WR)
        client.recv(65536)

    with _listening(reply) as url:
        yield url, seen
