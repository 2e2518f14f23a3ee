"""Load a transformers folder: configuration, processor, tokenizer and weights."""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import transformers

from kuwa_min.errors import KuwaError, StartError, UsageError

logger = logging.getLogger(__name__)

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # which accelerate computes
Progress = Callable[[int, int], None]  # called with (done, total)
MAX_REASON = 300  # characters of the library's error message


@dataclass(frozen=True)
class LoadOptions:
    """What to load, from where to which device; named as the command line names it."""

    path: str  # a folder, or a name on the hub
    model_path: str  # as the user gave it
    tokenizer: str | None
    processor: str | None
    device: str
    device_map: str | dict[str, Any] | None
    visible_gpu: str | None
    dtype: str  # "auto", or the name of a torch.dtype
    load_8bits: bool
    safetensors_only: bool
    trust_remote_code: bool
    special_ids: Mapping[str, int | list[int]]  # instead of what its generation_config.json says


class Loaded(NamedTuple):
    """What a folder contains, as the library's own objects."""

    config: Any
    processor: Any  # of images; None for a model of text alone
    tokenizer: Any
    model: Any


def load(options: LoadOptions, progress: Progress) -> Loaded:
    """Load a folder; raises StartError or UsageError saying in one line why it cannot be loaded."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device_map = _choose_device_map(options)
    with _reporting(progress), _explaining(options.model_path):
        config = transformers.AutoConfig.from_pretrained(options.path, **_trust(options))
        processor = _load_processor(config, options)
        tokenizer = _load_tokenizer(processor, options)
        quantization = {}
        if options.load_8bits:
            bits = transformers.BitsAndBytesConfig(load_in_8bit=True)
            quantization["quantization_config"] = bits
        model = _model_class(config).from_pretrained(
            options.path,
            dtype=options.dtype if options.dtype == "auto" else getattr(torch, options.dtype),
            device_map=device_map,
            use_safetensors=True if options.safetensors_only else None,
            generation_config=transformers.GenerationConfig(**options.special_ids),
            **_trust(options),
            **quantization,
        )
    return Loaded(config, processor, tokenizer, model.eval())


def _load_processor(config: Any, options: LoadOptions) -> Any:
    if not _accepts_images(config):
        return None
    from .vision import load_processor

    try:
        return load_processor(
            options.processor or options.path, trust_remote_code=options.trust_remote_code
        )
    except ImportError as error:  # some need torchvision, which a built file does not have
        reason = " ".join(str(error).split()).partition(". ")[0]
        logger.warning("%s sees no pictures, and answers text: %s", options.model_path, reason)
        return None


def _accepts_images(config: Any) -> bool:
    """Tell whether a model of this configuration reads images and writes text."""
    known = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return known or "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})


def _load_tokenizer(processor: Any, options: LoadOptions) -> Any:
    if processor is not None and not options.tokenizer:
        return processor.tokenizer
    path = options.tokenizer or options.path
    return transformers.AutoTokenizer.from_pretrained(path, **_trust(options))


def _model_class(config: Any) -> Any:
    if _accepts_images(config):
        return transformers.AutoModelForImageTextToText
    # AutoModelForCausalLM would load some encoder-decoder models, but without their encoder
    is_encoder_decoder = config.is_encoder_decoder
    return (
        transformers.AutoModelForSeq2SeqLM
        if is_encoder_decoder
        else transformers.AutoModelForCausalLM
    )


def _choose_device_map(options: LoadOptions) -> str | dict[str, Any] | None:
    """Return from_pretrained()'s device_map, None for the CPU.

    Raises StartError if a GPU is asked for and none can be used.
    """
    wanted, device = options.device_map or "auto", options.device
    if wanted != "auto" and device != "auto":
        raise UsageError("--device and --device_map exclude each other")
    if isinstance(wanted, dict):
        return wanted
    if wanted not in DEVICE_MAPS:
        device = wanted
    if device != "auto":
        _check_device(device)
    needs_gpu = options.visible_gpu if device == "auto" else device.startswith("cuda")
    if torch.cuda.is_available() and device == "auto":
        return wanted if torch.cuda.device_count() > 1 else "cuda:0"
    if needs_gpu and not torch.cuda.is_available():
        option = "--visible_gpu" if device == "auto" else f"--device {device}"
        raise StartError(
            f"{option} asks for a GPU, but torch {torch.__version__} finds none that it can use"
            f"{_no_gpu_reason()}; --device cpu computes on the processor"
        )
    return None if device in ("auto", "cpu") else device


def _check_device(name: str) -> None:
    try:
        torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name} is no device: auto, cpu, cuda or cuda:N") from None


def _no_gpu_reason() -> str:
    return "" if torch.version.cuda else " (it was built without CUDA)"


def _trust(options: LoadOptions) -> dict[str, bool]:
    return {"trust_remote_code": options.trust_remote_code}


@contextlib.contextmanager
def _explaining(path: str) -> Iterator[None]:
    """Raise StartError with one line for whatever loading raises."""
    try:
        yield
    except KuwaError:
        raise
    except (torch.OutOfMemoryError, MemoryError):
        raise StartError(f"{path} does not fit into memory; a smaller --dtype may") from None
    except pickle.UnpicklingError:
        raise StartError(
            f"{path} cannot be loaded: a .bin file of it holds more than weights, and reading that "
            "could run somebody's code; take the model's .safetensors files"
        ) from None
    except Exception as error:  # the library raises whatever its readers raise
        logger.debug("loading failed", exc_info=True)
        reason = " ".join(str(error).split())[:MAX_REASON]
        reason = "".join(filter(str.isprintable, reason))
        raise StartError(f"{path} cannot be loaded: {type(error).__name__}: {reason}") from None


@contextlib.contextmanager
def _reporting(progress: Progress) -> Iterator[None]:
    """Report the library's progress bars, one tensor after the other, as ours."""

    def follow(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Iterator[Any]:
        items = list(args[0] if args else options["iterable"])
        progress(0, len(items))
        for done, item in enumerate(items, 1):
            yield item
            progress(done, len(items))

    previous = transformers.logging.set_tqdm_hook(follow)
    try:
        yield
    finally:
        transformers.logging.set_tqdm_hook(previous)
