"""The adapters (LoRA) of a model: load them, and choose those that a chat is computed with.

A choice is a text, of the hash of each file and its scale, sorted. What was computed with it is
found by it, so that it stays the same from one start to the next.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp

from backends._local.options import parse_scale
from backends._local.prompt_cache.settings import key
from backends.llamacpp.bindings import LOG_CAPTURE
from backends.llamacpp.sentences import MUST_NAME_ADAPTERS, NEEDS_ADAPTERS
from kuwa_min.errors import StartError
from kuwa_min.options.sentences import OPTION_REASON

from .adapter_files import NONE, AdapterFile

logger = logging.getLogger(__name__)

OPTION = "lora"
HASH = 16  # hexadecimal digits of a file's
FAILED = re.compile(r".*failed to apply lora adapter: ")  # before the reason, in llama.cpp's log
LOADED = re.compile(r"loaded (\d+) tensors from lora file")
MAX_REASON = 200  # characters of llama.cpp's error message


class Adapters:
    """The adapters of a model: their names, and llama.cpp's pointers to them."""

    def __init__(self, scales: Mapping[str, float], loaded: Mapping[str, tuple[str, Any]]) -> None:
        """scales: by name, as the command line says; loaded: hash and pointer by name."""
        self._scales, self._keys = scales, {name: key for name, (key, _) in loaded.items()}
        self._pointers = dict(loaded.values())
        self.default = self._choice(scales)  # of chats that ask for none
        self.all = self._choice(dict.fromkeys(scales, 1.0))

    def choose(self, wanted: str | None) -> str:
        """Return the choice of a bot's llm_lora; raises ValueError with a Sentence.

        wanted: names with commas between them, each with =SCALE if need be, or "none"; None for the
        default.
        """
        if wanted is None:
            return self.default
        if wanted.strip() == NONE:
            return ""
        if not self._scales:
            raise ValueError(OPTION_REASON.format(OPTION, NEEDS_ADAPTERS))
        try:
            return self._choice(dict(self._parse(one.strip()) for one in wanted.split(",")))
        except ValueError:
            names = MUST_NAME_ADAPTERS.format(", ".join(self._scales))
            raise ValueError(OPTION_REASON.format(OPTION, names)) from None

    def _parse(self, text: str) -> tuple[str, float]:
        """Return name and scale; raises ValueError."""
        if text in self._scales:
            return text, self._scales[text] or 1.0
        name, _, scale = (part.strip() for part in text.rpartition("="))
        if name not in self._scales:
            raise ValueError(name)
        return name, parse_scale(scale)

    def _choice(self, scales: Mapping[str, float]) -> str:
        chosen = {self._keys[name]: scale for name, scale in scales.items() if scale}
        return " ".join(f"{key}*{scale:g}" for key, scale in sorted(chosen.items()))

    def arrays(self, choice: str) -> tuple[Any, int, Any]:
        """Return a choice as llama_set_adapters_lora() takes it: pointers, number and scales."""
        pairs = [one.split("*") for one in choice.split()]
        pointers = [self._pointers[key] for key, _ in pairs]
        scales = [float(scale) for _, scale in pairs]
        kind = llama_cpp.llama_adapter_lora_p_ctypes
        return (kind * len(pairs))(*pointers), len(pairs), (ctypes.c_float * len(pairs))(*scales)

    def facts(self) -> dict[str, Any]:
        """Return what /status says of them: the scales of chats that ask for none."""
        return {"adapters": dict(self._scales)} if self._scales else {}


NO_ADAPTERS = Adapters({}, {})


def load(model: Any, files: Sequence[AdapterFile], log: Sequence[str]) -> Adapters:
    """Load adapters for a model, which frees them with itself; raises StartError.

    model: llama.cpp's pointer; log: the list that llama.cpp's log lines are added to meanwhile.
    """
    loaded = {one.name: (key([one.path]).hex()[:HASH], _load(model, one, log)) for one in files}
    return Adapters({one.name: one.scale for one in files}, loaded)


def _load(model: Any, file: AdapterFile, log: Sequence[str]) -> Any:
    LOG_CAPTURE.first_error, start = "", len(log)
    pointer = llama_cpp.llama_adapter_lora_init(model, os.fsencode(file.path))
    if not pointer:
        reason = FAILED.sub("", LOG_CAPTURE.first_error)[:MAX_REASON] or "it does not say why"
        raise StartError(f"llama.cpp cannot apply --lora {file.path} to this model: {reason}")
    taken = [int(found[1]) for found in map(LOADED.search, log[start:]) if found]
    if ignored := file.tensors - sum(taken):
        logger.warning("--lora %s: llama.cpp applies none of its %d norms", file.path, ignored)
    logger.info("adapter %s: %s", file.name, f"scale {file.scale:g}" if file.scale else "on demand")
    return pointer
