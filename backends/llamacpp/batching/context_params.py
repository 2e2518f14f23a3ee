"""Create a llama.cpp context: its options as llama.cpp takes them, and why it could not be."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import llama_cpp

from backends._local.machine import processors
from backends._local.machine.thread_choice import Threads
from backends.llamacpp.bindings import LOG_CAPTURE
from kuwa_min.errors import StartError

BATCH_TOKENS = 2048  # in one llama_decode()
UBATCH_TOKENS = 512  # of them computed at once
PADDING = 256  # tokens: llama.cpp rounds a slot's capacity up to a multiple of it
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}


@dataclass(frozen=True)
class ContextOptions:
    """How a context computes; named as the command line names it."""

    threads: int | None  # None: as many as processors.default_threads() says
    flash_attn: str  # a key of FLASH_ATTENTION
    cache_type: str  # of keys and values: "f16", "q8_0"...


def threads(options: ContextOptions) -> Threads:
    """Return how many threads compute until speeds have been measured."""
    count = options.threads or processors.default_threads()
    return Threads(count, count)


def create(
    model: Any,
    options: ContextOptions,
    *,
    slots: int,
    length: int,
    abort_flag: ctypes.Array[ctypes.c_char],
) -> Any:
    """Return llama.cpp's pointer to a new context; raises StartError without enough memory.

    model: llama.cpp's pointer; abort_flag: see LlamaContext.
    """
    LOG_CAPTURE.first_error = ""
    params = _params(options, slots=slots, length=length, abort_flag=abort_flag)
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise StartError(_no_context(slots, length))
    return context


def _params(
    options: ContextOptions, *, slots: int, length: int, abort_flag: ctypes.Array[ctypes.c_char]
) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = slots * (-(-length // PADDING) * PADDING)
    params.n_batch, params.n_ubatch = BATCH_TOKENS, UBATCH_TOKENS
    params.n_seq_max, params.kv_unified = slots, False
    params.n_threads_batch, params.n_threads = threads(options)
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attn]
    kv_type = getattr(llama_cpp, f"GGML_TYPE_{options.cache_type.upper()}")
    params.type_k = params.type_v = kv_type
    params.no_perf = True
    # The callback that llama.cpp calls between operations is strlen(flag): a C function that
    # tells without the GIL whether the flag is set.
    strlen = ctypes.CDLL(None).strlen
    params.abort_callback = ctypes.cast(strlen, llama_cpp.ggml_abort_callback)
    params.abort_callback_data = ctypes.cast(abort_flag, ctypes.c_void_p)
    return params


def _no_context(slots: int, length: int) -> str:
    chats = "one chat" if slots == 1 else f"each of {slots} chats"
    return (
        f"llama.cpp cannot hold {length:,} tokens of {chats}: "
        f"{LOG_CAPTURE.first_error[:200] or 'not enough memory'}; lower --context_window or "
        "--concurrent_req_limit, or choose another --cache_type"
    )
