"""Check that a GGUF file is an adapter (LoRA), and made for a model's architecture."""

from __future__ import annotations

from pathlib import Path

from . import gguf
from .gguf_header import (
    ADAPTER_ALPHA,
    ADAPTER_TRIGGER,
    ADAPTER_TYPE,
    ARCHITECTURE,
    FILE_TYPE,
    Header,
)
from .sniff import InvalidModelFile, printable


def check(path: Path, model: Header) -> Header:
    """Check an adapter for a model; return its header. Raises InvalidModelFile.

    model: its header. llama.cpp would end the process over fields of another type.
    """
    header = gguf.check_file(path)
    if header.text(FILE_TYPE) != "adapter":
        raise InvalidModelFile("is no adapter (LoRA); a whole model is given as --model_path")
    if (kind := header.text(ADAPTER_TYPE)) != "lora":
        raise InvalidModelFile(
            f"is an adapter of the type {printable(kind) or 'unknown'}; llama.cpp applies lora only"
        )
    made_for, here = header.text(ARCHITECTURE), model.text(ARCHITECTURE)
    if made_for != here:
        raise InvalidModelFile(
            f"is an adapter for models of the architecture {printable(made_for) or 'unknown'}, and "
            f"--model_path is one of {printable(here)}"
        )
    if ADAPTER_TRIGGER in header.fields:
        raise InvalidModelFile(
            "is an activated adapter (aLoRA), which counts behind certain words of a chat only: "
            "that is not done here"
        )
    if not isinstance(header.fields.get(ADAPTER_ALPHA, 0.0), float):
        raise InvalidModelFile(f"is damaged: its {ADAPTER_ALPHA} is no number; copy it again")
    return header
