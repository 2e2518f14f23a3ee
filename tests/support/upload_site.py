"""A web site that serves the files of a folder, as Kuwa's front end serves uploads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


class Site(NamedTuple):
    """Its port, its URL, its folder, and the paths that were asked for."""

    port: int
    url: str
    folder: Path
    asked: list[str]

    def write(self, name: str, data: bytes) -> str:
        """Write a file; return its URL."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return f"{self.url}/{name}"


@contextmanager
def upload_site(folder: Path) -> Iterator[Site]:
    """Serve a folder on loopback."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Be quiet."""

        def do_GET(self) -> None:
            asked.append(self.path[1:])
            super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    port = server.server_address[1]
    yield Site(port, f"http://127.0.0.1:{port}", folder, asked)
    server.shutdown()
    server.server_close()
    thread.join(60)
