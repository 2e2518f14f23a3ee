"""Prepare llama.cpp itself: what it says, the library for this processor, how many threads."""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path
from typing import Any

import llama_cpp

from kuwa_min.errors import StartError

logger = logging.getLogger(__name__)

ERROR, CONTINUED = 4, 5  # llama.cpp's levels of log lines
CPU_CORES = Path("/sys/devices/system/cpu")


class Chatter:
    """Bring what llama.cpp says to our log at DEBUG, and keep its first complaint."""

    def __init__(self) -> None:
        self.complaint = ""
        self._level = 0
        self._callback = llama_cpp.llama_log_callback(self._hear)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _hear(self, level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", "replace").strip()
        self._level = self._level if level == CONTINUED else level
        if not line.strip("."):
            return
        if self._level == ERROR and not self.complaint:
            self.complaint = line  # the first one says why, the others that it failed
        logger.debug("llama.cpp: %s", line)


CHATTER = Chatter()  # as long as the process: llama.cpp speaks until its end


def load_processors(package: Path) -> None:
    """Let llama.cpp choose the library for this processor, in builds that have one for each."""
    # through libllama: wheels hold copies of libggml, and only the one that it uses counts
    library = ctypes.CDLL(str(min((package / "lib").glob("libllama.*"))))
    library.ggml_backend_reg_count.restype = ctypes.c_size_t
    for folder in (package / "lib", package.parent / "bin"):  # where wheels put them
        if library.ggml_backend_reg_count() == 0 and folder.is_dir():
            library.ggml_backend_load_all_from_path(ctypes.c_char_p(os.fsencode(folder)))
    if library.ggml_backend_reg_count() == 0:
        raise StartError(
            f"no libggml-cpu-*.so in {package / 'lib'} suits this processor; "
            "llama-cpp-python must be built for it"
        )


def cores() -> int:
    """Return the number of cores that we may use; hyperthreads of one core count once."""
    allowed = os.sched_getaffinity(0)
    siblings = [CPU_CORES / f"cpu{cpu}/topology/thread_siblings_list" for cpu in allowed]
    try:
        return len({path.read_text(encoding="ascii") for path in siblings})
    except OSError:
        return len(allowed)
