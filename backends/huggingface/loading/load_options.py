"""What to load, as the command line says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
