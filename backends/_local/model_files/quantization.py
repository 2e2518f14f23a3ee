"""Find out which library a quantised model needs beside transformers, and whether it is installed.

As in quantizers/ of transformers 5.24. Methods that need none: bitnet, fp8, gemma, metal, mxfp4 and
mxfp8; the last four are dequantised where there are no kernels for them. What else a method needs,
the library itself says (huggingface/loading/quantised.py); this is known before it is imported.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
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
    "quanto": ("optimum.quanto",),
    "quark": ("quark",),
    "sinq": ("sinq",),
    "spqr": ("spqr_quant",),
    "torchao": ("torchao",),
    "vptq": ("vptq",),
}
NEEDS_CARD = frozenset(("eetq", "fbgemm_fp8", "fp_quant", "higgs", "spqr", "vptq"))
FOREIGN = {  # methods of other programs -> which
    "exl2": "ExLlamaV2",
    "exl3": "ExLlamaV3",
    "gguf": "llama.cpp",
    "mlx": "MLX, for Apple's machines",
    "modelopt": "vLLM and TensorRT-LLM (NVIDIA's ModelOpt)",
}
DISTRIBUTIONS = {  # to install, where the name differs from the imported one
    "auto_round": "auto-round",
    "compressed_tensors": "compressed-tensors",
    "fbgemm_gpu": "fbgemm-gpu",
    "flute": "flute-kernel",
    "optimum.quanto": "optimum-quanto",
    "quark": "amd-quark",
}


def method(config: Mapping[str, Any]) -> str:
    """Return the quantisation method that a config.json states; "" for none.

    A multimodal model may state it for its language model.
    """
    if own := _method(config):
        return own
    text = config.get("text_config")
    return _method(text) if isinstance(text, dict) else ""


def _method(config: Mapping[str, Any]) -> str:
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


def needed_libraries(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the import names of the libraries that a model's weights need."""
    return LIBRARIES.get(method(config), ())


def packages(name: str) -> list[str]:
    """Return the packages that a method's libraries come from."""
    return [DISTRIBUTIONS.get(one, one) for one in LIBRARIES.get(name, ())]


def check(config: Mapping[str, Any], carried: Collection[str] | None = None) -> None:
    """Raise StartError if another program's format is found, or a library is missing.

    carried: the names of the packages in a built file that is not unpacked yet; None: those that
    this Python finds count.
    """
    name = method(config)
    if program := FOREIGN.get(name):
        raise StartError(
            f"the model's weights are quantised for {program}; take the same model as GGUF for "
            "`llamacpp`, or not quantised, or quantised as AWQ, GPTQ or FP8"
        )
    card = " a graphics card and" if name in NEEDS_CARD else ""
    why = f"the model's weights are quantised ({printable(name)}), which needs{card}"
    check_libraries(why, needed_libraries(config), carried)


def check_libraries(
    why: str, names: tuple[str, ...], carried: Collection[str] | None = None
) -> None:
    """Raise StartError if one of these libraries is missing.

    why: the beginning of the message, which ends with "needs"; carried: as for check().
    """
    is_here = _is_installed if carried is None else partial(_is_carried, carried)
    missing = [DISTRIBUTIONS.get(name, name) for name in names if not is_here(name)]
    if missing:
        raise StartError(f"{why} {not_installed(missing)}")


def not_installed(packages: Sequence[str]) -> str:
    """Return that these packages are not installed, and what to do."""
    return (
        f"{' and '.join(packages)}, not installed here: build the file by "
        f"`{build_line(packages)}`; a start from the sources, or from a file built with --thin, "
        f"also finds what `python -m pip install {' '.join(packages)}` installs"
    )


def build_line(packages: Sequence[str]) -> str:
    """Return the command that builds a file with these packages."""
    return " ".join(["python build.py huggingface", *(f"--with {name}" for name in packages)])


def _is_carried(carried: Collection[str], name: str) -> bool:
    """Tell whether a file carries a library; names of packages differ in case and hyphens."""
    wanted = DISTRIBUTIONS.get(name, name)
    return _normal(wanted) in map(_normal, carried)


def _normal(name: str) -> str:
    """Return a package's name as PEP 503 normalizes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # its parent package is missing, or half imported
        return False
