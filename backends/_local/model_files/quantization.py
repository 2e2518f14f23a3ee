"""Find out which library a quantised model needs beside transformers, and whether it is installed.

As in quantizers/ of transformers 5.23. Methods that need none: bitnet, fp8, gemma,
mxfp8; and mxfp4, which is computed in bfloat16 without its kernels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from kuwa_min.errors import StartError

from .sniff import printable

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
FOREIGN = {  # methods of other programs -> which
    "exl2": "ExLlamaV2",
    "exl3": "ExLlamaV3",
    "mlx": "MLX, for Apple's machines",
}
DISTRIBUTIONS = {  # to install, where the name differs from the imported one
    "auto_round": "auto-round",
    "compressed_tensors": "compressed-tensors",
    "fbgemm_gpu": "fbgemm-gpu",
    "flute": "flute-kernel",
    "optimum.quanto": "optimum-quanto",
    "quark": "amd-quark",
}


def method(config: dict[str, Any]) -> str:
    """Return the quantisation method that a config.json states; "" for none."""
    found = config.get("quantization_config")
    mlx = config.get("quantization")  # mlx-lm writes both, without a method
    if (
        isinstance(mlx, dict)
        and "bits" in mlx
        and not (isinstance(found, dict) and "quant_method" in found)
    ):
        return "mlx"
    if not isinstance(found, dict):
        return ""
    if found.get("load_in_8bit") or found.get("load_in_4bit"):
        return BITSANDBYTES
    name = found.get("quant_method")
    return name if isinstance(name, str) else ""


def needed_libraries(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the import names of the libraries that a model's weights need."""
    return LIBRARIES.get(method(config), ())


def check(config: dict[str, Any]) -> None:
    """Raise StartError if another program's format is found, or a library is not installed."""
    if program := FOREIGN.get(method(config)):
        raise StartError(
            f"the model's weights are quantised for {program}; take the same model as GGUF for "
            "`llamacpp`, or not quantised, or quantised as AWQ, GPTQ or FP8"
        )
    why = f"the model's weights are quantised ({printable(method(config))}), which needs"
    check_libraries(why, needed_libraries(config))


def check_libraries(why: str, names: tuple[str, ...]) -> None:
    """Raise StartError if one of these libraries is not installed.

    why: the beginning of the message, which ends with "needs".
    """
    missing = [DISTRIBUTIONS.get(name, name) for name in names if not _is_installed(name)]
    if missing:
        raise StartError(f"{why} {not_installed(missing)}")


def not_installed(packages: Sequence[str]) -> str:
    """Return that these packages are not installed, and what to do."""
    options = " ".join(f"--with {name}" for name in packages)
    return (
        f"{' and '.join(packages)}, not installed here: build the file by `python build.py "
        f"huggingface {options}`; a start from the sources, or from a file built with --thin, "
        f"also finds what `python -m pip install {' '.join(packages)}` installs"
    )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # its parent package is missing, or half imported
        return False
