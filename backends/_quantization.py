"""Say which library a quantised model needs beside transformers, and whether it is here.

As transformers 5.23 asks for them in its quantizers/. Methods that need none: bitnet, fp8, gemma,
mxfp8; and mxfp4, which is computed in bfloat16 without its kernels.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from kuwa_min.errors import StartError

from ._file_start import shown

BITSANDBYTES = "bitsandbytes"
LIBRARIES: dict[str, tuple[str, ...]] = {
    "aqlm": ("aqlm",),
    "auto-round": ("auto_round",),
    "awq": ("gptqmodel",),
    BITSANDBYTES: (BITSANDBYTES,),
    "compressed-tensors": ("compressed_tensors",),
    "eetq": ("kernels",),
    "fbgemm_fp8": ("fbgemm_gpu",),
    "fouroversix": ("fouroversix",),
    "fp_quant": ("fp_quant",),
    "gptq": ("optimum", "gptqmodel"),
    "higgs": ("flute", "fast_hadamard_transform"),
    "hqq": ("hqq",),
    "metal": ("kernels",),
    "quanto": ("optimum.quanto",),
    "quark": ("quark",),
    "sinq": ("sinq",),
    "spqr": ("spqr_quant",),
    "torchao": ("torchao",),
    "vptq": ("vptq",),
}
DISTRIBUTIONS = {  # what to install, where that is not called as it is imported
    "auto_round": "auto-round",
    "compressed_tensors": "compressed-tensors",
    "fbgemm_gpu": "fbgemm-gpu",
    "flute": "flute-kernel",
    "optimum.quanto": "optimum-quanto",
    "quark": "amd-quark",
}


def method(config: dict[str, Any]) -> str:
    """Return how the weights are quantised, as a config.json says; "" if they are not."""
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return ""
    if found.get("load_in_8bit") or found.get("load_in_4bit"):
        return BITSANDBYTES
    name = found.get("quant_method")
    return name if isinstance(name, str) else ""


def needed_libraries(config: dict[str, Any]) -> tuple[str, ...]:
    """Return what a model's weights need beside transformers, as it is imported."""
    return LIBRARIES.get(method(config), ())


def check(config: dict[str, Any]) -> None:
    """Raise StartError if a library that the weights need is not here."""
    why = f"the model's weights are quantised ({shown(method(config))}), which needs"
    check_libraries(why, needed_libraries(config))


def check_libraries(why: str, names: tuple[str, ...]) -> None:
    """Raise StartError if one of these libraries is not here; `why` ends with "needs"."""
    missing = [DISTRIBUTIONS.get(name, name) for name in names if not _is_here(name)]
    if missing:
        raise StartError(
            f"{why} {' and '.join(missing)}, not installed here: "
            f"`python -m pip install {' '.join(missing)}` helps a start from the sources, or from "
            "a file built with --thin; a whole file uses nothing but what it carries"
        )


def _is_here(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # the package above it is not here, or is half imported
        return False
