"""Load a GGUF file with llama.cpp, and say in one line why it cannot be loaded."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp

from backends.llamacpp.bindings import LOG_CAPTURE
from backends.llamacpp.device import override_buffers
from kuwa_min.errors import StartError

from .tensor_overrides import TensorOverride

Progress = Callable[[int, int], None]  # called with (done, total)
PROGRESS_STEPS = 1000  # of loading
UNKNOWN_ARCHITECTURE = re.compile(r"unknown model architecture: '([\w.-]*)'")
NO_DEVICES = (ctypes.c_void_p * 1)(None)  # ends with NULL, as any list of them
LOAD_WITHOUT_MAPPING = 0  # llama_load_mode
MAX_REASON = 300  # characters of llama.cpp's error message


def load(
    path: Path,
    progress: Progress,
    *,
    gpu_layers: int,
    tensor_split: Sequence[float],
    overrides: Sequence[TensorOverride] = (),
    without_weights: bool = False,
) -> Any:
    """Return llama.cpp's pointer to the loaded model; raises StartError.

    without_weights: to see what a context needs; nothing can be computed.
    """
    failure: list[BaseException] = []

    def report(share: float, _: Any) -> bool:
        try:
            progress(int(PROGRESS_STEPS * share), PROGRESS_STEPS)
        except BaseException as error:  # noqa: BLE001 - SystemExit of a signal, too
            failure.append(error)
        return not failure

    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    if not gpu_layers:  # else long prompts are computed on a GPU all the same
        params.devices = ctypes.cast(NO_DEVICES, ctypes.c_void_p)
    if without_weights:
        params.no_alloc, params.load_mode = True, LOAD_WITHOUT_MAPPING
    params.tensor_split = _tensor_split(tensor_split)
    params.tensor_buft_overrides = ctypes.cast(
        override_buffers.array(overrides, gpu_layers), ctypes.c_void_p
    )
    params.progress_callback = llama_cpp.llama_progress_callback(report)
    LOG_CAPTURE.first_error = ""
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if failure:
        raise failure[0]
    if not model:
        reason = LOG_CAPTURE.first_error or "llama.cpp does not say why"
        if unknown := UNKNOWN_ARCHITECTURE.search(reason):
            raise StartError(
                f"{path} is a model of the architecture {unknown[1]}, which llama-cpp-python "
                f"{llama_cpp.__version__} does not know; a file built with a newer one may"
            )
        raise StartError(f"{path} cannot be loaded: {reason[:MAX_REASON]}")
    return model


def _tensor_split(shares: Sequence[float]) -> Any:
    """Return the share of each GPU as llama.cpp's array; None for its default."""
    most = int(llama_cpp.llama_max_devices())
    if len(shares) > most:
        raise StartError(f"--tensor_split has {len(shares)} numbers; llama.cpp takes {most}")
    return (ctypes.c_float * most)(*shares) if shares else None
