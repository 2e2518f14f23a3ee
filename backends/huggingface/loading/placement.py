"""Choose the device of a model, or how accelerate divides it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from backends._local.machine import visible_gpus
from backends._local.model_files.sniff import InvalidModelFile
from backends._local.model_files.weights import find
from backends.huggingface.device import cards
from kuwa_min.errors import StartError, UsageError

from .load_options import LoadOptions

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # which accelerate computes


def choose_device_map(options: LoadOptions) -> str | dict[str, Any] | None:
    """Return from_pretrained()'s device_map, None for the CPU.

    Raises StartError if a GPU is asked for and none can be used.
    """
    wanted, device = options.device_map or "auto", options.device
    if wanted != "auto" and device != "auto":
        raise UsageError("--device and --device_map exclude each other")
    if isinstance(wanted, dict):
        return wanted
    if wanted not in DEVICE_MAPS:
        device = wanted
    if device != "auto":
        _check_device(device)
    needs_gpu = options.visible_gpu if device == "auto" else device.startswith("cuda")
    if torch.cuda.is_available() and device != "cpu":
        visible_gpus.check(options.visible_gpu, torch.cuda.device_count())
    if torch.cuda.is_available() and device == "auto":
        return wanted if torch.cuda.device_count() > 1 else "cuda:0"
    if needs_gpu and not torch.cuda.is_available():
        option = "--visible_gpu" if device == "auto" else f"--device {device}"
        raise StartError(
            f"{option} asks for a GPU, but torch {torch.__version__} finds none that it can use"
            f"{_no_gpu_reason()}; --device cpu computes on the processor"
        )
    return None if device in ("auto", "cpu") else device


def choose_cards(
    device_map: str | dict[str, Any] | None, config: Any, options: LoadOptions, weights: int
) -> tuple[str | dict[str, Any] | None, str]:
    """Return the device map, of one card if the model fits on it, and the name of the dtype.

    weights: their bytes in memory; 0 if that is not known.
    """
    if not isinstance(device_map, str) or not torch.cuda.is_available():
        return device_map, options.dtype
    found = cards.found()
    if device_map == "auto" and weights:
        itemsize = 4 if options.dtype == "float32" else 2
        needed = cards.needed_bytes(weights, config, options.tokens, itemsize)
        device_map = cards.on_one(found, needed) or device_map
    used = [one for one in found if device_map == f"cuda:{one.index}"] or found
    is_told = options.dtype != "auto" or options.load_8bits
    return device_map, options.dtype if is_told else cards.half_precision(config, used)


def stored_bytes(options: LoadOptions) -> int:
    """Return the bytes of the weights as stored; 0 if they are not in a folder."""
    try:
        return sum(one.size for one in find(Path(options.path)))
    except (InvalidModelFile, OSError):
        return 0


def _check_device(name: str) -> None:
    try:
        torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name} is no device: auto, cpu, cuda or cuda:N") from None


def _no_gpu_reason() -> str:
    return "" if torch.version.cuda else " (it was built without CUDA)"
