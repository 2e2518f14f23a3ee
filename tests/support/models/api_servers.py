"""Servers of OpenAI's protocol with real models: our executors, llama.cpp's and transformers'."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.support.models import real_models, tiny_models
from tests.support.programs import ROOT, START_TIMEOUT, TIMEOUT, Program

ALONE = ("--ignore_kernel", "--host", "127.0.0.1")
LLAMA_SERVER = ROOT / "benchmarks" / "engines" / "llama_server.py"
SERVE = (sys.executable, "-m", "transformers.cli.transformers", "serve")
JSON = {"Content-Type": "application/json"}
DONE = "[DONE]"


class Reply(NamedTuple):
    """A response: JSON, or the events of a stream."""

    status: int
    value: Any  # None for a stream
    events: list[Any]


class ApiServer(NamedTuple):
    """A running server: its base URL, and the name of its model."""

    base: str
    model: str

    def post(self, path: str, **fields: Any) -> Reply:
        """Send a request for this model, unless the fields name another one."""
        return self.send(path, json.dumps({"model": self.model, **fields}).encode())

    def send(self, path: str, body: bytes | None = None, method: str = "POST") -> Reply:
        """Send a request and read the whole response."""
        parts = urlsplit(self.base)
        address = (parts.hostname or "", parts.port)
        with closing(http.client.HTTPConnection(*address, timeout=TIMEOUT)) as connection:
            connection.request(method, path, body, JSON)
            response = connection.getresponse()
            text = response.read().decode()
        if (response.getheader("Content-Type") or "").startswith("text/event-stream"):
            return Reply(response.status, None, events_of(text))
        try:
            return Reply(response.status, json.loads(text), [])
        except ValueError:
            return Reply(response.status, text, [])


def events_of(text: str) -> list[Any]:
    """Return the data of each event of a stream, including [DONE]."""
    lines = [line.removeprefix("data:").strip() for line in text.splitlines()]
    return [one if one == DONE else json.loads(one) for one in lines if one and one[0] != ":"]


@contextmanager
def debug(_: Path) -> Iterator[ApiServer]:
    """Run our executor that repeats its input."""
    with Program("debug", *ALONE, "--delay", "0") as program:
        yield ApiServer(program.url.removesuffix("/chat"), "debug")


@contextmanager
def llamacpp(_: Path) -> Iterator[ApiServer]:
    """Run our executor with a small real model."""
    _need("llama_cpp", "llguidance")
    path = real_models.gguf_file(real_models.SMOLLM2)
    options = ("--model_path", str(path), "--threads", "1", "--context_window", "2048")
    with Program("llamacpp", *ALONE, *options) as program:
        program.wait_for("ready", START_TIMEOUT)
        yield ApiServer(program.url.removesuffix("/chat"), "llamacpp")


@contextmanager
def llama_server(_: Path) -> Iterator[ApiServer]:
    """Run llama.cpp's own server with the same model as `llamacpp`."""
    _need("xllamacpp")
    path = real_models.gguf_file(real_models.SMOLLM2)
    options = ("--port", "0", "--slots", "1", "--context", "2048", "--threads", "1")
    command = (sys.executable, str(LLAMA_SERVER), "--model", str(path))
    with Program(*options, command=command) as program:
        yield ApiServer(program.wait_for(r"(?m)^(http://\S+)$", START_TIMEOUT)[1], str(path))


@contextmanager
def transformers_serve(folder: Path) -> Iterator[ApiServer]:
    """Run the server of transformers with a tiny model of random weights."""
    _need("torch", "transformers", "fastapi", "uvicorn", "openai")
    path = str(tiny_models.write_folder(folder / "tiny"))
    options = ("--host", "127.0.0.1", "--port", "0", "--device", "cpu")
    with Program(*options, command=(*SERVE, path), HF_HUB_OFFLINE="1") as program:
        yield ApiServer(program.wait_for(r"running on (http://\S+)", START_TIMEOUT)[1], path)


SERVERS = {
    "debug": debug,
    "llamacpp": llamacpp,
    "llama.cpp": llama_server,
    "transformers": transformers_serve,
}


def _need(*modules: str) -> None:
    missing = [name for name in modules if not find_spec(name)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
