"""Load a GGUF file with the layers on graphics cards that were asked for, or that fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backends.llamacpp.batching.context_params import ContextOptions
from backends.llamacpp.device import devices, layer_choice, override_buffers
from kuwa_min.errors import StartError

from .gguf_model import Progress, load
from .tensor_overrides import TensorOverride

logger = logging.getLogger(__name__)


def load_placed(
    path: Path,
    progress: Progress,
    options: ContextOptions,
    *,
    gpu_layers: int | None,
    visible_gpu: str | None,
    tensor_split: Sequence[float],
    overrides: Sequence[TensorOverride],
    slots: int,
    length: int,
    beside: Sequence[Path] = (),
) -> tuple[Any, int]:
    """Return llama.cpp's pointer to the loaded model, and its layers on cards; -1 for all.

    gpu_layers: None for as many as fit beside the KV cache of `slots` times `length` tokens; if
    cards then fail, the processor computes; beside: files of what goes on a card, too. Raises
    StartError.
    """

    def place(layers: int) -> Any:
        override_buffers.check(path, overrides, layers)
        split = tensor_split if layers else ()
        return load(path, progress, gpu_layers=layers, tensor_split=split, overrides=overrides)

    if gpu_layers is not None:
        devices.check(gpu_layers, visible_gpu, tensor_split)
        return place(gpu_layers), gpu_layers
    gpu_layers = layer_choice.choose(
        path,
        options,
        visible_gpu=visible_gpu,
        tensor_split=tensor_split,
        overrides=overrides,
        slots=slots,
        length=length,
        beside=beside,
    )
    try:
        return place(gpu_layers), gpu_layers
    except StartError as error:
        if not gpu_layers:
            raise
        logger.warning("the processor computes, as loading to graphics cards failed: %s", error)
    return place(0), 0
