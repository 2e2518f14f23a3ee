"""A hub of models on this machine: as much of its HTTP as fetching one model takes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves the files of a folder as a model's; `asked` are the paths that were asked for."""

    def __init__(self, name: str, folder: Path) -> None:
        self.asked: list[str] = []
        self._name, self._folder = name, folder
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def environment(self, home: Path, is_offline: str) -> Mapping[str, str]:
        """Return what leads the hub's own library here, with its cache in this folder.

        is_offline: "1" or "0", as the library is told by the environment.
        """
        port = self._server.server_address[1]
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": is_offline,
            "TRANSFORMERS_OFFLINE": is_offline,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def __enter__(self) -> Hub:
        """Serve until the block ends."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _find(self, path: str) -> bytes | None:
        """Return what lies at a path: a file of the model, or what is said about the model."""
        if path == f"/api/models/{self._name}":
            return json.dumps({"id": self._name, "sha": COMMIT, "siblings": []}).encode()
        for revision in ("main", COMMIT):
            before = f"/{self._name}/resolve/{revision}/"
            file = self._folder / path.removeprefix(before)
            if path.startswith(before) and file.is_file():
                return file.read_bytes()
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(with_body=True)

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def answer(self, *, with_body: bool) -> None:
                path = self.path.partition("?")[0]
                hub.asked.append(path)
                found = hub._find(path)
                content = found or b"{}"
                self.send_response(404 if found is None else 200)
                if found is None:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if with_body:
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
