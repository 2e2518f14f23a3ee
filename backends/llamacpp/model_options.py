"""The generation options that a model states itself: general.sampling.* of its GGUF file."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from backends._local.model_files.gguf_header import SAMPLING
from backends._local.model_files.sniff import printable
from kuwa_min.options.generation_options import Source

logger = logging.getLogger(__name__)

NAMES = {  # llama.cpp's -> ours
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
    "mirostat": "mirostat_mode",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
NEUTRAL = {"penalty_last_n": 64, "xtc_probability": 0}  # values of others that change nothing


def read(fields: Mapping[str, str | float], model_path: str) -> Source:
    """Return the options of a model's header, unconverted, and log those without effect here."""
    stated = {
        name.removeprefix(SAMPLING): value
        for name, value in fields.items()
        if name.startswith(SAMPLING)
    }
    values = {NAMES[name]: value for name, value in stated.items() if name in NAMES}
    ignored = [
        printable(name)
        for name, value in stated.items()
        if name not in NAMES and NEUTRAL.get(name) != value
    ]
    if not stated.get("xtc_probability") and "xtc_threshold" in ignored:
        ignored.remove("xtc_threshold")
    if values:
        logger.info("%s sets %s", model_path, ", ".join(f"{n}={v}" for n, v in values.items()))
    if ignored:
        logger.warning("%s: %s* without effect here: %s", model_path, SAMPLING, ", ".join(ignored))
    return f"{model_path}: {SAMPLING}*", values
