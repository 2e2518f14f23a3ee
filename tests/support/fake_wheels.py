"""Make small wheels and serve them as a package index on this machine."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    *requires: str,
    tag: str = "py3-none-any",
    extra: str = "",
) -> Path:
    """Make a wheel of one empty module."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {one}" for one in requires]
    members = {
        f"{module}/__init__.py": extra,
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = [f"{member},," for member in (*members, f"{info}/RECORD")]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**members, f"{info}/RECORD": "\n".join(record) + "\n"}.items():
            archive.writestr(zipfile.ZipInfo(member), text)
    return path


def digest(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leave_the_internet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take this machine's settings of uv and pip away, and every index with them."""
    for name in os.environ:
        if name.upper().startswith(("PIP_", "UV_", "CMAKE_ARGS", "CXX")):
            monkeypatch.delenv(name)
    nowhere = "http://127.0.0.1:9/simple"
    settings = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_INDEX_URL": nowhere,
        "PIP_RETRIES": "0",
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(tmp_path / "uv-cache"),
        "UV_DEFAULT_INDEX": nowhere,
        "UV_HTTP_RETRIES": "0",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder whose subfolders are packages; give its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Quiet(SimpleHTTPRequestHandler):
    """List folders and send files without a word."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
