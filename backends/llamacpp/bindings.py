"""llama.cpp as a library: check its API, capture its log, load it for this CPU."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp

from kuwa_min.errors import StartError

logger = logging.getLogger(__name__)

ERROR, CONTINUED = 4, 5  # log levels of llama.cpp
TENSOR_BYTES = 1024  # memory for the description of a tensor
API = {  # the functions that we call and their numbers of arguments, which have changed before
    "llama_adapter_lora_init": 2,
    "llama_backend_init": 0,
    "llama_context_default_params": 0,
    "llama_decode": 2,
    "llama_free": 1,
    "llama_get_logits": 1,
    "llama_get_memory": 1,
    "llama_init_from_model": 2,
    "llama_log_set": 2,
    "llama_max_devices": 0,
    "llama_max_parallel_sequences": 0,
    "llama_memory_clear": 2,
    "llama_memory_seq_cp": 5,
    "llama_memory_seq_pos_max": 2,
    "llama_memory_seq_rm": 4,
    "llama_model_chat_template": 2,
    "llama_model_default_params": 0,
    "llama_model_desc": 3,
    "llama_model_free": 1,
    "llama_model_get_vocab": 1,
    "llama_model_has_decoder": 1,
    "llama_model_has_encoder": 1,
    "llama_model_is_diffusion": 1,
    "llama_model_is_hybrid": 1,
    "llama_model_is_recurrent": 1,
    "llama_model_load_from_file": 2,
    "llama_model_n_ctx_train": 1,
    "llama_model_n_swa": 1,
    "llama_n_batch": 1,
    "llama_n_ctx_seq": 1,
    "llama_sampler_apply": 2,
    "llama_sampler_chain_add": 2,
    "llama_sampler_chain_default_params": 0,
    "llama_sampler_chain_init": 1,
    "llama_sampler_free": 1,
    "llama_sampler_init_dist": 1,
    "llama_sampler_init_min_p": 2,
    "llama_sampler_init_mirostat": 5,
    "llama_sampler_init_mirostat_v2": 3,
    "llama_sampler_init_temp": 1,
    "llama_sampler_init_top_k": 1,
    "llama_sampler_init_top_p": 2,
    "llama_sampler_init_typical": 2,
    "llama_sampler_sample": 3,
    "llama_set_adapters_lora": 4,
    "llama_set_n_threads": 3,
    "llama_state_seq_get_data": 4,
    "llama_state_seq_get_size": 2,
    "llama_state_seq_set_data": 4,
    "llama_supports_gpu_offload": 0,
    "llama_synchronize": 1,
    "llama_token_to_piece": 6,
    "llama_tokenize": 7,
    "llama_vocab_bos": 1,
    "llama_vocab_eos": 1,
    "llama_vocab_get_add_bos": 1,
    "llama_vocab_get_attr": 2,
    "llama_vocab_get_text": 2,
    "llama_vocab_is_eog": 2,
    "llama_vocab_n_tokens": 1,
    "llama_vocab_type": 1,
}


class LogCapture:
    """Forwards llama.cpp's log to ours at DEBUG, and keeps the first error.

    first_error: set it to "" before a call, read it after one that failed. llama.cpp calls _log()
    from any of its threads.
    """

    def __init__(self) -> None:
        self.first_error = ""
        self._level = 0
        self._captured: list[str] | None = None
        self.callback = llama_cpp.llama_log_callback(self._log)
        llama_cpp.llama_log_set(self.callback, ctypes.c_void_p(0))

    @contextlib.contextmanager
    def capturing(self) -> Iterator[list[str]]:
        """Collect the log lines of the block, but for those of a block in it, in its list."""
        outer, self._captured = self._captured, []
        try:
            yield self._captured
        finally:
            self._captured = outer

    def _log(self, level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", "replace").strip()
        self._level = self._level if level == CONTINUED else level
        if not line.strip("."):  # a progress bar
            return
        if self._captured is not None:
            self._captured.append(line)
        if self._level == ERROR and not self.first_error:
            self.first_error = line  # it states the cause; later ones report that a call failed
        logger.debug("llama.cpp: %s", line)


LOG_CAPTURE = LogCapture()  # for the life of the process: llama.cpp logs up to its end


def prepare() -> None:
    """Initialize llama.cpp; raises StartError if its API or its builds do not fit."""
    changed = [name for name, count in API.items() if _argument_count(name) != count]
    if changed:
        raise StartError(
            f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')} is not the one "
            f"that this program was written for: {', '.join(changed[:3])} changed; use the file "
            "kuwa-llamacpp.pyz, which has one that fits"
        )
    LOG_CAPTURE.first_error = ""
    # Before llama_backend_init(), which else runs any libggml-*.so of the current directory.
    load_cpu_backend(Path(llama_cpp.__file__).parent)
    llama_cpp.llama_backend_init()


def _argument_count(name: str) -> int | None:
    """Return the number of a function's arguments; None if the library does not have it."""
    types = getattr(getattr(llama_cpp, name, None), "argtypes", None)
    return None if types is None else len(types)


def holding_gil(function: Any) -> Any:
    """Return a function of llama.cpp that holds the GIL while it runs.

    For calls that take microseconds: releasing the GIL and waiting for it would take longer.
    """
    holding = getattr(ctypes.PyDLL(llama_cpp.llama_cpp._lib._name), function.__name__)
    holding.argtypes, holding.restype = function.argtypes, function.restype
    return holding


def load_cpu_backend(package: Path) -> None:
    """Load llama.cpp's CPU backend for this processor, in builds with several of them.

    package: the folder of llama_cpp. Raises StartError if none of them suits.
    """
    # through libllama: wheels contain copies of libggml, and the one that libllama uses counts
    library = ctypes.CDLL(str(min((package / "lib").glob("libllama.*"))))
    library.ggml_backend_reg_count.restype = ctypes.c_size_t
    for folder in (package / "lib", package.parent / "bin"):  # where wheels have the backends
        if library.ggml_backend_reg_count() == 0 and folder.is_dir():
            library.ggml_backend_load_all_from_path(ctypes.c_char_p(os.fsencode(folder)))
    if library.ggml_backend_reg_count() == 0:
        raise StartError(
            f"no libggml-cpu-*.so in {package / 'lib'} suits this processor; "
            "llama-cpp-python must be built for it"
        )


class _InitParams(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


def device_takes(name: str, size: int) -> bool:
    """Tell whether a device ("Vulkan0") supports a tensor of `size` bytes, by ggml's own query.

    True for devices that ggml does not know. Nothing is allocated.
    """
    library = ctypes.CDLL(llama_cpp.llama_cpp._lib._name)
    by_name, init, tensor = (
        getattr(library, f"ggml_{word}")
        for word in ("backend_dev_by_name", "init", "new_tensor_1d")
    )
    by_name.restype = init.restype = tensor.restype = ctypes.c_void_p
    init.argtypes = [_InitParams]
    tensor.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
    library.ggml_free.argtypes = [ctypes.c_void_p]
    supports = library.ggml_backend_dev_supports_op
    supports.restype, supports.argtypes = ctypes.c_bool, [ctypes.c_void_p, ctypes.c_void_p]
    device = by_name(name.encode())
    context = init(_InitParams(TENSOR_BYTES, None, True))
    try:
        probe = tensor(context, llama_cpp.GGML_TYPE_I8, size)
        return not device or bool(supports(device, probe))
    finally:
        library.ggml_free(context)
