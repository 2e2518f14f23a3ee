"""Ask transformers before weights are read if it computes them quantised, or dequantises them.

Where a device has no kernels for them, transformers dequantises some in silence, which takes up to
four times the memory: that is logged, and refused where it does not fit.
"""

from __future__ import annotations

import copy
import logging
from typing import Any, NamedTuple

import torch
import transformers
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, AutoHfQuantizer
from transformers.utils import import_utils

from backends._local.machine.free_memory import free_bytes
from backends._local.model_files import quantization
from backends._local.model_files.sniff import printable
from backends.huggingface.device import cards
from kuwa_min.errors import StartError, UsageError

from .load_options import LoadOptions
from .placement import stored_bytes

logger = logging.getLogger(__name__)

DeviceMap = str | dict[str, Any] | None
ONLY_BY_KERNELS = ("mxfp4", "fp8", "mxfp8")  # computed by the package kernels only, on a card
DECOMPRESSED = "transformers decompresses them before it computes"
GGUF = "take the model as GGUF, for `llamacpp`"
MAX_REASON = 200  # characters of the library's error message


class Form(NamedTuple):
    """How quantised weights are computed."""

    arguments: dict[str, Any]  # of from_pretrained()
    dequantised: str = ""  # the reason why they are; "" if they stay quantised


AS_THEY_ARE = Form({})


def find_form(config: Any, device_map: DeviceMap, options: LoadOptions) -> Form:
    """Return how the weights of this configuration are computed on a device.

    device_map: as for from_pretrained(), None for the processor. Raises StartError if they cannot
    be computed, UsageError if --load_8bits is asked of quantised ones.
    """
    settings = _settings(config)
    if options.load_8bits:
        if settings:
            raise UsageError(
                f"--load_8bits: the weights of {options.model_path} are quantised already; leave "
                "it out"
            )
        return Form({"quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True)})
    if not settings:
        return AS_THEY_ARE
    method = quantization.method({"quantization_config": settings})
    _check_known(method, options)
    quantizer = _validated(settings, method, device_map, options)
    if method == "compressed-tensors":  # its first forward() decompresses what has no kernel
        return AS_THEY_ARE if quantizer.use_fp8_kernel else Form({}, DECOMPRESSED)
    found = quantizer.quantization_config
    if not hasattr(found, "dequantize"):
        return AS_THEY_ARE
    why = _why_dequantised(method, device_map, is_dequantised=bool(found.dequantize))
    if not why:
        return AS_THEY_ARE
    return Form({"quantization_config": type(found)(dequantize=True)}, why)


def _settings(config: Any) -> dict[str, Any]:
    """Return the quantization_config of a model, or of its language model; {} for none."""
    for one in (config, config.get_text_config(decoder=True)):
        if found := getattr(one, "quantization_config", None):
            return dict(found if isinstance(found, dict) else found.to_dict())
    return {}


def _check_known(method: str, options: LoadOptions) -> None:
    """Raise StartError for a method that transformers ignores: it would read wrong weights."""
    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZER_MAPPING}
    if method not in known:
        raise StartError(
            f"{options.model_path} is quantised ({printable(method) or 'no method is stated'}), "
            f"which transformers {transformers.__version__} does not know; {GGUF}, or not quantised"
        )


def _validated(
    settings: dict[str, Any], method: str, device_map: DeviceMap, options: LoadOptions
) -> Any:
    """Return the library's quantizer once it has checked what it needs; raises StartError."""
    try:
        quantizer = AutoHfQuantizer.from_config(copy.deepcopy(settings), pre_quantized=True)
        quantizer.validate_environment(device_map=device_map, weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever its quantizers and their packages raise
        text = "".join(filter(str.isprintable, " ".join(str(error).split())))[:MAX_REASON]
        packages = quantization.packages(method) if isinstance(error, ImportError) else ()
        build = f"{quantization.build_line(packages)} --newest" if packages else ""
        remedy = f"newer packages may: `{build}`" if build else f"{GGUF}, or not quantised"
        raise StartError(
            f"{options.model_path} is quantised ({printable(method)}), which is not computed here: "
            f"{type(error).__name__}: {text}; {remedy}"
        ) from None
    return quantizer


def _why_dequantised(method: str, device_map: DeviceMap, *, is_dequantised: bool) -> str:
    """Return why weights are dequantised; "" if they are not.

    is_dequantised: whether the quantizer says so, which considers neither where the model goes nor
    whether kernels are there.
    """
    if method not in ONLY_BY_KERNELS:
        return "no device here computes them otherwise" if is_dequantised else ""
    if device_map is None or not torch.cuda.is_available():
        return "only graphics cards compute them otherwise"
    if not import_utils.is_kernels_available():
        least, below = import_utils.KERNELS_MIN_VERSION, import_utils.KERNELS_MAX_VERSION
        line = quantization.build_line([f"'kernels>={least},<{below}'"])
        return f"this card's kernels come with a package: `{line}`"
    if is_dequantised:
        return "this card has no kernels for them"
    return _kernels_missing(method)


def _kernels_missing(method: str) -> str:
    """Return that the hub's cache has no kernels for a card; "" if the package finds them."""
    try:
        if method == "mxfp4":
            from transformers.integrations.hub_kernels import get_kernel

            get_kernel("kernels-community/gpt-oss-triton-kernels", version=1)
        else:
            from transformers.integrations.finegrained_fp8 import load_finegrained_fp8_kernel

            load_finegrained_fp8_kernel()
    except Exception as error:  # without kernels, weights are dequantised
        logger.debug("no kernels for %s", method, exc_info=True)
        return f"their kernels are not in the hub's cache ({type(error).__name__})"
    return ""


def check_fits(form: Form, needed: int, device_map: DeviceMap, options: LoadOptions) -> None:
    """Log that weights are dequantised; raise StartError if that takes more memory than is free.

    needed: bytes of the dequantised weights.
    """
    free = _free(device_map)
    sizes = f"{needed / cards.GB:.1f} GB in place of {stored_bytes(options) / cards.GB:.1f} GB"
    if free is not None and needed > free:
        raise StartError(
            f"{options.model_path} is quantised, and would be dequantised here, to {sizes}, of "
            f"which {free / cards.GB:.1f} GB are free: {form.dequantised}; {GGUF}"
        )
    logger.warning(
        "%s: its weights are dequantised, to %s: %s", options.model_path, sizes, form.dequantised
    )


def dequantised_bytes(config: Any, model_class: Any, options: LoadOptions) -> int:
    """Return the bytes of a model's weights in 16 bits, or in 32 if --dtype says so."""
    plain = copy.deepcopy(config)
    for one in {id(part): part for part in (plain, plain.get_text_config(decoder=True))}.values():
        if hasattr(one, "quantization_config"):
            del one.quantization_config
    with torch.device("meta"):
        model = model_class.from_config(plain, trust_remote_code=options.trust_remote_code)
    itemsize = 4 if options.dtype == "float32" else 2
    return itemsize * sum(one.numel() for one in model.parameters())


def _free(device_map: DeviceMap) -> float | None:
    """Return the bytes that are free where a model goes; None if that is not known."""
    if device_map is None or not torch.cuda.is_available():
        return free_bytes()
    found = cards.found()
    used = [one for one in found if device_map in (f"cuda:{one.index}", {"": f"cuda:{one.index}"})]
    return float(sum(one.free() for one in used or found))
