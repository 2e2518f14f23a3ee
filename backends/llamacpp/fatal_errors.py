"""End the process in order where llama.cpp would abort it.

ggml calls abort() for what it cannot go on from, such as a graphics card without memory while it
computes, and C++ ends the process at an exception that nothing catches, as those of Vulkan are. A
log line that waits to be written is lost then, the Kernel is not told, and a core dump as large as
the model may be written. Both can call a function before; it does not return.
"""

from __future__ import annotations

import ctypes
import re
import signal
import time
from collections.abc import Callable

import llama_cpp

from .bindings import LOG_CAPTURE

END_WITHIN = 20  # seconds, then the system ends the process: its threads may wait for this one
AbortCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
TerminateHandler = ctypes.CFUNCTYPE(None)
FOLDERS = re.compile(r"^\S*/(?=[^/\s]+:\d+: )")  # of the source file in front of a message
OUT_OF_MEMORY = re.compile(r"out.?of.?\w*memory|alloc", re.IGNORECASE)
RESTART = "a new process can, which systemd starts where the unit has Restart=on-failure"
LOWER = "; if it happens again, lower --context_window, --concurrent_req_limit or --ngl"
MAX_REASON = 300  # characters of llama.cpp's message
CPLUSPLUS = "libstdc++.so.6"
NAME_OFFSET = ctypes.sizeof(ctypes.c_void_p)  # in std::type_info, behind the table of functions

Handler = Callable[[str], object]
_handlers: list[Handler] = []  # at most one


def on_end(handler: Handler) -> None:
    """Call a handler with a line that says why, from any thread, where the process would end.

    It asks for the end of the process, and returns; the thread does not go on.
    """
    _handlers[:] = [handler]
    library = ctypes.CDLL(llama_cpp.llama_cpp._lib._name)
    library.ggml_set_abort_callback.restype = ctypes.c_void_p
    library.ggml_set_abort_callback(_ON_ABORT)
    try:
        ctypes.CDLL(CPLUSPLUS)._ZSt13set_terminatePFvvE(_ON_TERMINATE)
    except (OSError, AttributeError):  # another C++ library: its exceptions abort the process
        return


def describe(message: str, first_error: str) -> str:
    """Return the line that says why.

    message: ggml's, "/src/ggml-cuda.cu:103: CUDA error"; first_error: what llama.cpp logged of it.
    """
    place = " ".join(FOLDERS.sub("", message.strip()).split())
    reason = f"{first_error} ({place})" if first_error else place
    hint = LOWER if OUT_OF_MEMORY.search(reason) else ""
    return f"llama.cpp cannot go on: {reason[:MAX_REASON]}; {RESTART}{hint}"


def _end(message: str) -> None:
    """Have the process end, and never return."""
    signal.alarm(END_WITHIN)
    _handlers[0](describe(message, LOG_CAPTURE.first_error))
    while True:
        time.sleep(END_WITHIN)


def _exception_name() -> str:
    """Return the class of the C++ exception that nothing caught: "vk::DeviceLostError"."""
    library = ctypes.CDLL(CPLUSPLUS)
    current, demangle = (
        getattr(library, f"__cxa_{name}") for name in ("current_exception_type", "demangle")
    )
    current.restype, demangle.restype = ctypes.c_void_p, ctypes.c_char_p
    kind = current()
    if not kind:
        return "std::terminate()"
    mangled = ctypes.c_char_p.from_address(kind + NAME_OFFSET).value or b""
    name = demangle(mangled, None, None, None) or mangled
    return f"the exception {name.decode('utf-8', 'replace')}"


_ON_ABORT = AbortCallback(lambda message: _end(message.decode("utf-8", "replace")))
_ON_TERMINATE = TerminateHandler(lambda: _end(_exception_name()))  # both for the process's life
