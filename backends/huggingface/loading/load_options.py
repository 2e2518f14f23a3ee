"""What to load, as the command line says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends._local.model_files.peft_folder import WEIGHTS, PeftAdapter

Progress = Callable[[int, int], None]  # called with (done, total)


@dataclass(frozen=True)
class LoadOptions:
    """What to load, from where to which device; named as the command line names it."""

    path: str  # a folder, or a name on the hub
    model_path: str  # as the user gave it
    tokenizer: str | None
    processor: str | None
    device: str
    device_map: str | dict[str, Any] | None
    visible_gpu: str | None
    dtype: str  # "auto", or the name of a torch.dtype
    load_8bits: bool
    safetensors_only: bool
    trust_remote_code: bool
    special_ids: Mapping[str, int | list[int]]  # instead of what its generation_config.json says
    tokens: int  # of all chats together, for the estimate of memory
    adapters: Sequence[PeftAdapter] = ()  # to merge into the weights

    def files(self) -> list[Path]:
        """Return the files of the model's folder, none of one on the hub, and of the adapters."""
        folder = Path(self.path)
        own = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
        return own + [one.folder / WEIGHTS for one in self.adapters]

    def computed_with(self) -> list[Any]:
        """Return what keys and values depend on beside the files."""
        return [self.load_8bits, [(one.scale, one.config) for one in self.adapters]]
