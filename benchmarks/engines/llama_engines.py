"""Say how ours with llama.cpp, the library's loops and `llama_cpp.server` are started."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from sys import executable

from engines.servers import ALONE, LOOPS, OURS, SLOTS, Library, Makers, OpenAiServer, Ours
from harness.contestants import HERE
from harness.process import HOST, free_port

SERVER = "llama_cpp.server"
SERVER_NEEDS = ("fastapi", "pydantic_settings", "sse_starlette", "starlette_context", "uvicorn")
CONTEXT = 4096  # of each chat
F32 = "0"  # llama.cpp's number for it
ON_CARD = ("--ngl", "-1", "--flash_attn", "auto", "--cache_type", "f16")
SERVER_OPTIONS = (
    *("--n_ctx", str(CONTEXT), "--n_threads", "1", "--n_threads_batch", "1"),
    *("--type_k", F32, "--type_v", F32, "--flash_attn", "False", "--verbose", "False"),
    *("--interrupt_requests", "False"),  # else a new chat cuts off the one that is answered
    *("--logits_all", "False"),  # else it keeps the logits of every token of the prompt
)


class OursWithLlama(Ours):
    """Our executor with llama.cpp; it takes the likeliest token unless a chat says otherwise."""

    length_option = "max_tokens"

    def __init__(
        self,
        options: argparse.Namespace,
        model: Path,
        *more: str,
        slots: int,
        threads: int | None = 1,
    ) -> None:
        loading = (
            *("llamacpp", "--model_path", str(model), "--context_window", str(CONTEXT)),
            *("--flash_attn", "off", "--cache_type", "f32", "--temperature", "0"),
            *(("--threads", str(threads)) if threads else ()),
            *more,
        )
        super().__init__(options.file, *loading, slots=slots)


class LlamaServer(OpenAiServer):
    """llama-cpp-python's own server."""

    knock = "/v1/models"

    def __init__(self, model: Path) -> None:
        port = free_port()
        command = [
            *(executable, str(HERE), "engines.llama_server", "--model", str(model)),
            *("--host", HOST, "--port", str(port), *SERVER_OPTIONS),
        ]
        super().__init__(command, port, model)


def makers(model: Path, options: argparse.Namespace) -> Makers:
    """Return what makes each engine; the library's server only where it is installed."""
    library = ("--model_path", str(model), "--context", str(CONTEXT))
    found: Makers = {
        OURS: lambda: OursWithLlama(options, model, slots=SLOTS),
        ALONE: lambda: OursWithLlama(options, model, slots=1),
        LOOPS: lambda: Library("engines.llama_loops", *library),
    }
    return {**found, SERVER: lambda: LlamaServer(model)} if server_works() else found


def makers_on_card(model: Path, options: argparse.Namespace) -> Makers:
    """Return what makes ours and the library's loops with all layers on graphics cards.

    options.device: "cpu" tries the same without one.
    """
    more = ON_CARD if options.device == "cuda" else ()
    library = ("--model_path", str(model), "--context", str(CONTEXT), *more)
    return {
        OURS: lambda: OursWithLlama(options, model, *more, slots=SLOTS),
        LOOPS: lambda: Library("engines.llama_loops", *library),
    }


def server_works() -> bool:
    """Say whether what `llama_cpp.server` needs is there."""
    return all(map(find_spec, SERVER_NEEDS))
