"""Start what answers with a model: ours, the library's loops, `transformers serve`.

All in processes of their own with one compute thread each, and all loaded before a clock runs.
"""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from answer import Answer, EventAnswer, completion_request, form_request
from contestants import HERE, ROOT, slot_path
from process import HOST, Server, ServerFailedError, clean_environment, free_port

OURS, ALONE = "kuwa-huggingface", "the same, one by one"
LOOPS = "the library alone"
SERVE, BATCHING = "transformers serve", "the same, --continuous-batching"
SLOTS = 8
LOAD_SECONDS = 300.0
POLL_SECONDS = 0.05
ORDER_SECONDS = 120.0
CPU_CACHE = ("--cb-num-blocks", "64", "--cb-max-batch-tokens", "512")  # else 60 % of the memory
LOOK = "import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))"
SERVE_NEEDS = ("transformers", "fastapi", "openai", "pydantic", "rich", "starlette", "uvicorn")


@dataclass(frozen=True)
class Setting:
    """What all have in common, and how ours and `transformers serve` are called."""

    model: Path
    device: str
    dtype: str
    file: Path | None
    serve_python: str


class ModelServer(Server):
    """A server that takes its time to load; healthy is any answer of 200 or 204."""

    def wait_healthy(self) -> float:
        """Knock until the model is loaded; return the seconds since the start."""
        while not self._answers():
            late = time.perf_counter() - self.started > LOAD_SECONDS
            if late or self.process.poll() is not None:
                raise ServerFailedError(f"{' '.join(self.command)}\n{self.output()}")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - self.started

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/health", timeout=5) as health:
                return health.status in (200, 204)
        except OSError:
            return False


class Ours(ModelServer):
    """Our executor without a Kernel."""

    def __init__(self, setting: Setting, *, slots: int) -> None:
        port = free_port()
        start = [str(setting.file)] if setting.file else ["-m", "kuwa_min"]
        options = [
            *("--model_path", str(setting.model), "--device", setting.device),
            *("--dtype", setting.dtype, "--no_system_prompt", "--ignore_kernel"),
            *("--host", HOST, "--port", str(port), "--concurrent_req_limit", str(slots)),
        ]
        super().__init__([sys.executable, *start, "huggingface", *options], port, cwd=ROOT)

    def chat(self, slot: int, said: Sequence[str], tokens: int, **options: object) -> Answer:
        """Ask in a slot for so many tokens."""
        request = form_request(slot_path(slot), said, max_new_tokens=tokens, **options)
        return Answer(self.port, request, tokens)


class Serve(ModelServer):
    """`transformers serve`, with its own options."""

    def __init__(self, setting: Setting, *options: str) -> None:
        port = free_port()
        self.model = str(setting.model)
        command = [
            *(setting.serve_python, "-m", "transformers.cli.transformers", "serve", self.model),
            *("--host", HOST, "--port", str(port)),
            *("--device", setting.device, "--dtype", setting.dtype),
        ]
        super().__init__([*command, *options], port)

    def chat(self, slot: int, said: Sequence[str], tokens: int) -> EventAnswer:
        """Ask for so many tokens; it knows no slots."""
        request = completion_request(self.model, said, max_tokens=tokens, temperature=0)
        return EventAnswer(self.port, request, tokens)


class Library(ModelServer):
    """The process with the library's own loops, whose clock is its own."""

    def __init__(self, setting: Setting) -> None:
        port = free_port()
        command = [
            *(sys.executable, str(HERE / "library_loops.py"), "--port", str(port)),
            *("--model_path", str(setting.model)),
            *("--device", setting.device, "--dtype", setting.dtype),
        ]
        super().__init__(command, port)

    def answer(self, kind: str, prompts: Sequence[str], tokens: int) -> dict[str, Any]:
        """Return the seconds of the whole and of the decoding, and the texts."""
        order = json.dumps({"kind": kind, "prompts": prompts, "tokens": tokens}).encode()
        url = f"http://{HOST}:{self.port}/"
        with urllib.request.urlopen(url, order, timeout=ORDER_SECONDS) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


Engines = Mapping[str, Any]


@contextmanager
def running(setting: Setting, names: Collection[str]) -> Iterator[Engines]:
    """Start the engines of these names at once, and wait until all are loaded."""
    makers: dict[str, Callable[[], ModelServer]] = {
        OURS: lambda: Ours(setting, slots=SLOTS),
        ALONE: lambda: Ours(setting, slots=1),
        LOOPS: lambda: Library(setting),
        SERVE: lambda: Serve(setting),
        BATCHING: lambda: Serve(setting, "--continuous-batching", *cache_options(setting.device)),
    }
    with ExitStack() as stack:
        engines = {name: makers[name]() for name in makers if name in names}
        for engine in engines.values():
            engine.start()
            stack.callback(engine.stop)
        for engine in engines.values():
            engine.wait_healthy()
        yield engines


def cache_options(device: str) -> Sequence[str]:
    """Return what bounds the cache of continuous batching where it would take too much."""
    return CPU_CACHE if device == "cpu" else ()


def serve_works(python: str) -> bool:
    """Say whether an interpreter has what `transformers serve` needs."""
    command = [python, "-c", LOOK, *SERVE_NEEDS]
    return subprocess.run(command, env=clean_environment(), check=False).returncode == 0
