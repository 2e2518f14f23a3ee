"""Drive a backend as a slot does, without a server."""

from __future__ import annotations

import gc
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends._local.engine import Engine
from backends._local.executor import ModelExecutor
from backends._local.machine import idle_measurements, visible_gpus
from backends._local.prefill_budget import PrefillBudget
from backends._local.templates.sandbox_pool import SandboxPool
from kuwa_min import LLMExecutor, Modelfile
from kuwa_min.serving.generations.generator_runner import GeneratorRunner
from tests.support.upload_site import Site, upload_site

ENVIRONMENT = (  # what loading sets for the libraries
    *visible_gpus.VARIABLES,
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY",
    "TORCHINDUCTOR_CACHE_DIR",
    "GOMP_SPINCOUNT",
)
Said = list[dict[str, str]]


class Talker:
    """A loaded backend, and what it answers."""

    def __init__(self, executor: LLMExecutor) -> None:
        self.executor = executor

    def pieces(self, *said: str, **commands: str) -> list[str]:
        """Return the pieces of an answer to what user and assistant said in turn."""
        taken: list[str] = []
        self.run(GeneratorRunner(), taken.append, *said, **commands)
        return taken

    def run(
        self, runner: GeneratorRunner, write: Callable[[str], object], *said: str, **commands: str
    ) -> None:
        """Let a runner drive the answer."""
        roles = ("user", "assistant")
        history = [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]
        entries = [{"name": name, "args": text} for name, text in commands.items()]
        modelfile = Modelfile.from_json(json.dumps(entries))
        generator = self.executor.llm_compute(history, modelfile)
        runner.run(generator, write)

    def first(self, count: int, *said: str) -> list[str]:
        """Return the first pieces of an answer that is stopped then."""
        taken: list[str] = []
        runner = GeneratorRunner()

        def write(piece: str) -> None:
            taken.append(piece)
            if len(taken) == count:
                runner.cancel()

        self.run(runner, write, *said)
        return taken


@pytest.fixture(autouse=True, scope="module")
def no_left_overs() -> Iterator[None]:
    """Let go of what a module's tests leave: it may not be able to end within a deep recursion."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def no_idle_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave engines alone: tests compute with their parts, too."""
    monkeypatch.setattr(idle_measurements, "QUIET", math.inf)


@pytest.fixture
def free_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count copies as free: engines reuse every cached prefix, however slow this machine is."""
    monkeypatch.setattr(PrefillBudget, "tokens_in", lambda budget, seconds: 0)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Serve a folder on loopback for the length of a test."""
    with upload_site(tmp_path / "site") as served:
        yield served


Load = Callable[..., Talker]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Give what makes a loaded backend of its class and its command line; end them all."""
    begun: list[Engine | SandboxPool] = []

    for name in ENVIRONMENT:
        monkeypatch.setenv(name, os.environ.get(name, ""))  # restored at the end
        monkeypatch.delenv(name)

    def make(kind: type[ModelExecutor], *options: object) -> Talker:
        monkeypatch.setattr(sys, "argv", ["kuwa", *map(str, options)])
        executor = kind()
        executor.setup()
        begun.extend((executor.engine, executor.sandbox_pool))
        return Talker(executor)

    yield make
    for one in begun:
        one.close()
