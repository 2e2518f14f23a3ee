"""Log one line before llama.cpp ends the process.

ggml calls abort() for what it cannot go on from, such as a graphics card without memory while it
computes. By itself it writes no log line, and a stack of calls where gdb is installed.
"""

from __future__ import annotations

import ctypes
import logging
import re

import llama_cpp

from .bindings import LOG_CAPTURE

logger = logging.getLogger(__name__)

Callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
FOLDERS = re.compile(r"^\S*/(?=[^/\s]+:\d+: )")  # of the source file in front of a message
OUT_OF_MEMORY = re.compile(r"out of memory|alloc", re.IGNORECASE)
LOWER = "; if it happens again, lower --context_window, --concurrent_req_limit or --ngl"
MAX_REASON = 300  # characters of llama.cpp's message


def announce() -> None:
    """Have ggml log why, as the last line, where it would abort the process."""
    library = ctypes.CDLL(llama_cpp.llama_cpp._lib._name)
    library.ggml_set_abort_callback.restype = ctypes.c_void_p
    library.ggml_set_abort_callback(_CALLBACK)


def describe(message: str, first_error: str) -> str:
    """Return the line for the log.

    message: ggml's, "/src/ggml-cuda.cu:103: CUDA error"; first_error: what llama.cpp logged of it.
    """
    place = " ".join(FOLDERS.sub("", message.strip()).split())
    reason = f"{first_error} ({place})" if first_error else place
    hint = LOWER if OUT_OF_MEMORY.search(reason) else ""
    return f"llama.cpp ends the process: {reason[:MAX_REASON]}; its service unit restarts it{hint}"


def _log(message: bytes) -> None:
    """Log the line; any thread of llama.cpp's calls it, and abort() follows."""
    logger.critical("%s", describe(message.decode("utf-8", "replace"), LOG_CAPTURE.first_error))


_CALLBACK = Callback(_log)  # for the life of the process
