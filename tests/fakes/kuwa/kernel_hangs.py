"""Servers that accept connections and never say a word, or one letter after the other."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hanging_kernel() -> Iterator[str]:
    """Listen for the length of a test; give the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


@contextmanager
def trickling(at_once: bytes) -> Iterator[str]:
    """Answer with some bytes at once, and then one every 20 ms, for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as client:
                client.recv(65536)
                client.sendall(at_once)
                while True:
                    time.sleep(0.02)
                    client.sendall(b"x")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
