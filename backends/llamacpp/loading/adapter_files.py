"""The files of --lora, checked before llama.cpp reads them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from backends._local.model_files import resolve
from backends._local.model_files.gguf_header import Header
from backends._local.options import Lora
from kuwa_min.errors import UsageError

NONE = "none"  # the llm_lora of a bot that wants no adapter


class AdapterFile(NamedTuple):
    """A checked file of an adapter; scale: in chats that ask for none, 0 if on demand only."""

    path: Path
    scale: float
    tensors: int  # in the file

    @property
    def name(self) -> str:
        """Return the name by which bots choose it."""
        return self.path.name.removesuffix(".gguf")


def find(adapters: Iterable[Lora], model: Header) -> list[AdapterFile]:
    """Return the checked files of --lora for a model; raises UsageError."""
    found: dict[str, AdapterFile] = {}
    for path, scale in adapters:
        place, header = resolve.gguf_adapter(path, model)
        file = AdapterFile(place, scale, header.tensors)
        if file.name in found:
            raise UsageError(
                f"--lora {path} and {found[file.name].path} have the same name, by which bots "
                "choose them; rename one"
            )
        if "," in file.name or file.name in (NONE, ""):
            raise UsageError(
                f"--lora {path} has a name that bots cannot choose; rename it, without commas"
            )
        found[file.name] = file
    return list(found.values())
