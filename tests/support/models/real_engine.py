"""A real engine that speaks as OpenAI does: llama-cpp-python's server with a tiny model."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.models import tiny_models
from tests.support.programs import ROOT, until

NEEDED = (
    "openai",
    "llama_cpp",
    "fastapi",
    "uvicorn",
    "sse_starlette",
    "starlette_context",
    "pydantic_settings",
)
MISSING = [name for name in NEEDED if not importlib.util.find_spec(name)]
SERVE = """
from pathlib import Path
import llama_cpp
from backends.llamacpp import bindings
bindings.load_cpu_backend(Path(llama_cpp.__file__).parent)
from llama_cpp.server.__main__ import main
main()
"""
WINDOW = 512  # tokens
OPTIONS = (
    "--model_alias",
    "tiny",
    "--host",
    "127.0.0.1",
    "--port",
    "0",
    "--n_ctx",
    str(WINDOW),
    "--n_threads",
    "1",
    "--n_threads_batch",
    "1",
)


class Engine:
    """The server's process, and what it has printed."""

    def __init__(self, model: Path, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, "--model", str(model), *OPTIONS],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def log(self) -> str:
        """Return what it has printed."""
        return self._log.read_text(errors="replace")

    def wait(self) -> str:
        """Wait until it serves; return what --base_url is to be."""

        def look() -> re.Match[str] | None:
            assert self.process.poll() is None, self.log
            return re.search(r"running on (http://127\.0\.0\.1:\d+)", self.log)

        found: re.Match[str] = until(look)
        return f"{found[1]}/v1"


@contextmanager
def real_engine(folder: Path, template: str = tiny_models.TEMPLATE) -> Iterator[Engine]:
    """Run the server for the length of a test; template: the model's chat template."""
    model = tiny_models.write_gguf(folder / "tiny.gguf", template=template)
    running = Engine(model, folder / "log")
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
