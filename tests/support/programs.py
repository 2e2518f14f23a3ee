"""Start the real program for a test, talk to it, and end it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit

ROOT = Path(__file__).resolve().parents[2]
MODULE = (sys.executable, "-m", "kuwa_min")
TIMEOUT = 180.0  # seconds until a test gives up
START_TIMEOUT = 900.0  # seconds that a file may take to unpack its libraries and load a model


def until(true: Callable[[], Any], seconds: float = TIMEOUT) -> Any:
    """Wait until something is true and return it; fail after a while."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := true()):
        assert time.monotonic() < deadline, "this did not happen in time"
        pause.wait(0.01)
    return found


@contextmanager
def reserved_port() -> Iterator[int]:
    """Reserve a loopback port: only a server that binds this very number gets it.

    A socket that is bound but does not listen keeps the system from handing its port out, whether
    to servers on port 0 or to connections; SO_REUSEADDR, set on both, lets a server take it.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


class Program:
    """A running process of ours whose log is being read."""

    def __init__(self, *options: str, command: tuple[str, ...] = MODULE, **environment: str):
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            cwd=ROOT if command is MODULE else None,
            env={**os.environ, **environment},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def __enter__(self) -> Program:
        """Return the program, which runs already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill what the test has not ended."""
        self.process.kill()
        self.end()

    @property
    def log(self) -> str:
        """Return what was written so far."""
        return "".join(self.lines)

    def wait_for(self, pattern: str, seconds: float = TIMEOUT) -> re.Match[str]:
        """Wait until the log matches."""

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.log)
            assert found or self.process.poll() is None, f"it ended:\n{self.log}"
            return found

        match: re.Match[str] = until(look, seconds)
        return match

    @property
    def url(self) -> str:
        """Return the address of the first chat endpoint."""
        return self.wait_for(r"ready: .* at (\S+)")[1]

    @property
    def kernel_url(self) -> str:
        """Return the address of the embedded Kernel."""
        return self.wait_for(r"the chat page is at (\S+)/\s")[1]

    def end(self) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


@contextmanager
def call(
    url: str,
    form: dict[str, str] | None = None,
    *,
    method: str | None = None,
    fields: dict[str, str] | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """Send one request and give the response, whose body is still to be read."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    body = None if form is None else urlencode(form).encode()
    headers = dict(fields or {})
    if body is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    try:
        connection.request(method or ("GET" if body is None else "POST"), parts.path, body, headers)
        response = connection.getresponse()
        try:
            yield response
        finally:
            response.close()
    finally:
        connection.close()


def fetch(url: str, form: dict[str, str] | None = None, **more: Any) -> tuple[int, str]:
    """Send one request; return status and text."""
    with call(url, form, **more) as response:
        return response.status, response.read().decode()


def post_json(url: str, value: Any) -> tuple[int, Any]:
    """Post JSON; return status and JSON."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    with contextlib.closing(connection):
        fields = {"Content-Type": "application/json"}
        connection.request("POST", parts.path, json.dumps(value), fields)
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())


def said(*messages: str, **fields: str) -> dict[str, str]:
    """Make a chat's form: what the user and the assistant said in turn, the user first."""
    history = [{"isbot": bool(n % 2), "msg": text} for n, text in enumerate(messages)]
    return {"input": json.dumps(history), **fields}


def chat_through(kernel: str, name: str, text: str, history_id: int = 1) -> str:
    """Have one chat through a Kernel; return the answer."""
    ids = {"name": name, "history_id": str(history_id), "user_id": "7"}
    until(lambda: fetch(f"{kernel}/v1.0/worker/schedule", ids)[1] == "READY")
    return fetch(f"{kernel}/v1.0/chat/completions", {**ids, **said(text)})[1]


def table(kernel: str) -> dict[str, list[list[Any]]]:
    """Return the Kernel's records."""
    from kuwa_min.kernel import protocol

    return protocol.parse_table(fetch(f"{kernel}/v1.0/worker/debug")[1])
