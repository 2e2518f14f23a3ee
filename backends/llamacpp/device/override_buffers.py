"""Give tensor overrides to llama.cpp, and check that their devices compute."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backends._local.model_files import gguf
from backends.llamacpp.loading.tensor_overrides import TensorOverride, without_effect
from kuwa_min.errors import StartError

from . import devices

logger = logging.getLogger(__name__)


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def check(path: Path, overrides: Sequence[TensorOverride], gpu_layers: int) -> None:
    """Log which overrides have no effect; raise StartError for a device that computes nothing.

    path: of the model; gpu_layers: 0 if the processor computes all.
    """
    if not overrides:
        return
    for one in overrides:
        if not one.is_on_processor and one.device.upper() not in _known(gpu_layers):
            here = ", ".join(str(device) for device in devices.used(gpu_layers))
            raise StartError(
                f"{one.option}: {one.device} computes nothing here, but {here} does"
                f"{'' if gpu_layers else '; --ngl says how many layers graphics cards compute'}"
            )
    if not gpu_layers:
        options = ", ".join(one.option for one in overrides)
        logger.warning("without effect, as the processor computes all: %s", options)
        return
    names = {name for part in gguf.parts(path) for name in gguf.check_file(part).sizes}
    if unused := without_effect(overrides, names):
        logger.warning("without effect, as no tensor has such a name: %s", ", ".join(unused))


def array(overrides: Sequence[TensorOverride], gpu_layers: int) -> Any:
    """Return the overrides as llama.cpp's array, which the caller keeps alive; None for none."""
    if not overrides or not gpu_layers:
        return None
    known = _known(gpu_layers)
    entries = [_Override(os.fsencode(one.pattern), known[one.device.upper()]) for one in overrides]
    return (_Override * (len(entries) + 1))(*entries)  # ends with NULL


def _known(gpu_layers: int) -> dict[str, int]:
    """Return the buffer types of the devices that compute, by the devices' names in capitals."""
    return {one.name.upper(): devices.buffer_type(one) for one in devices.used(gpu_layers)}
