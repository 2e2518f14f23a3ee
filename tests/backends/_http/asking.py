"""Servers that answer on a raw socket, and requests to them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable

from backends._http.connection import Request, Timeouts
from backends._http.origin import Origin
from backends._http.pool import ConnectionPool
from backends._http.tls import create_tls_context

TIMEOUTS = Timeouts(connect=60, read=60)


def answer_once(listener: socket.socket, *answers: bytes) -> list[bytes]:
    """Answer the requests of one connection; return what came, which fills on its own."""
    came: list[bytes] = []

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            for answer in answers:
                came.append(sock.recv(65536))
                sock.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return came


def ask(origin: Origin, create_tls: Callable[[], ssl.SSLContext] = create_tls_context) -> bytes:
    """Return the body of an answer."""
    pool = ConnectionPool(create_tls)
    answer = pool.send(Request(origin, "GET", "/v1/models", [("Host", "one.test")]), TIMEOUTS)
    try:
        return answer.read()
    finally:
        answer.close()
        pool.close()
