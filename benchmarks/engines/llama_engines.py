"""Say how ours with llama.cpp, the library's loops and llama.cpp's own server are started."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from sys import executable

from engines.servers import ALONE, LOOPS, OURS, SLOTS, Library, Makers, OpenAiServer, Ours
from harness.contestants import HERE
from harness.process import free_port

SERVER = "llama.cpp's server"
CONTEXT = 4096  # of each chat
DEFAULTS = ("--flash_attn", "auto", "--cache_type", "f16")
ON_CARD = ("--ngl", "-1", *DEFAULTS)
PLAIN = ("--flash_attn", "off", "--cache_type", "f32")  # answers are equal, token by token


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
            *(*PLAIN, "--temperature", "0", *(("--threads", str(threads)) if threads else ())),
            *more,
        )
        super().__init__(options.file, *loading, slots=slots)


class LlamaServer(OpenAiServer):
    """llama.cpp's own server, as the wheel xllamacpp carries it."""

    def __init__(self, model: Path, *more: str, slots: int, threads: int = 1) -> None:
        port = free_port()
        command = [
            *(executable, str(HERE), "engines.llama_server", "--model", str(model)),
            *("--port", str(port), "--slots", str(slots), "--threads", str(threads)),
            *("--context", str(CONTEXT), *more),
        ]
        super().__init__(command, port, model)


def makers(model: Path, options: argparse.Namespace) -> Makers:
    """Return what makes each engine; the server of llama.cpp only where it is installed."""
    library = ("--model_path", str(model), "--context", str(CONTEXT))
    found: Makers = {
        OURS: lambda: OursWithLlama(options, model, slots=SLOTS),
        ALONE: lambda: OursWithLlama(options, model, slots=1),
        LOOPS: lambda: Library("engines.llama_loops", *library),
    }
    if not server_works():
        return found
    return {**found, SERVER: lambda: LlamaServer(model, *PLAIN, slots=SLOTS)}


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
    """Say whether the wheel with llama.cpp's server is installed."""
    return find_spec("xllamacpp") is not None
