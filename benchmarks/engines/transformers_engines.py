"""Say how ours with transformers, the library's loops and `transformers serve` are started."""

import argparse
import subprocess
from collections.abc import Sequence
from pathlib import Path

from engines.servers import ALONE, LOOPS, OURS, SLOTS, Library, Makers, OpenAiServer, Ours
from harness.process import HOST, clean_environment, free_port

SERVE, BATCHING = "transformers serve", "the same, --continuous-batching"
CPU_CACHE = ("--cb-num-blocks", "64", "--cb-max-batch-tokens", "512")  # else 60 % of the memory
LOOK = "import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))"
SERVE_NEEDS = ("transformers", "fastapi", "openai", "pydantic", "rich", "starlette", "uvicorn")


def makers(model: Path, options: argparse.Namespace) -> Makers:
    """Return what makes each engine; `transformers serve` only where it is installed."""
    common = ("--device", options.device, "--dtype", options.dtype)
    ours = ("huggingface", "--model_path", str(model), *common)
    library = ("--model_path", str(model), *common)
    found: Makers = {
        OURS: lambda: Ours(options.file, *ours, slots=SLOTS),
        ALONE: lambda: Ours(options.file, *ours, slots=1),
        LOOPS: lambda: Library("engines.transformers_loops", *library),
    }
    if not serve_works(options.serve_python):
        return found
    batching = ("--continuous-batching", *cache_options(options.device))
    return {
        **found,
        SERVE: lambda: serve(options.serve_python, model, *common),
        BATCHING: lambda: serve(options.serve_python, model, *common, *batching),
    }


def serve(python: str, model: Path, *options: str) -> OpenAiServer:
    """Return `transformers serve` with its own options."""
    port = free_port()
    command = [
        *(python, "-m", "transformers.cli.transformers", "serve", str(model)),
        *("--host", HOST, "--port", str(port), *options),
    ]
    return OpenAiServer(command, port, model)


def cache_options(device: str) -> Sequence[str]:
    """Return what bounds the cache of continuous batching where it would take too much."""
    return CPU_CACHE if device == "cpu" else ()


def serve_works(python: str) -> bool:
    """Say whether an interpreter has what `transformers serve` needs."""
    command = [python, "-c", LOOK, *SERVE_NEEDS]
    return subprocess.run(command, env=clean_environment(), check=False).returncode == 0
