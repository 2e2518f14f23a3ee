"""Load a transformers folder: configuration, processor, tokenizer and weights."""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from backends._local import visible_gpus
from backends._local.model_files import template_files
from backends._local.model_files.quantization import not_installed
from backends._local.model_files.sniff import (
    InvalidModelFile,
    join_names,
    printable,
    read_json,
)
from backends._local.model_files.weights import find
from kuwa_min.errors import KuwaError, StartError, UsageError

from .device import cards, errors
from .model_kind import check_complete, check_writes_text

logger = logging.getLogger(__name__)

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # which accelerate computes
Progress = Callable[[int, int], None]  # called with (done, total)
MISSING_PACKAGES = re.compile(r"not found in your environment: ([\w., -]+?)\. Run ")
UNKNOWN_TYPE = re.compile(r"model type `([^`]*)` but Transformers does not recognize")
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
    tokens: int  # of all chats together, for the estimate of memory


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
    with _reporting(progress), _explaining(options):
        config = transformers.AutoConfig.from_pretrained(options.path, **_trust(options))
        device_map, dtype = _choose_cards(device_map, config, options)
        processor = _load_processor(config, options)
        tokenizer = _load_tokenizer(processor, options)
        quantization = {}
        if options.load_8bits:
            bits = transformers.BitsAndBytesConfig(load_in_8bit=True)
            quantization["quantization_config"] = bits
        model_class = _model_class(config)
        check_writes_text(config, model_class, options.model_path)
        model, found = model_class.from_pretrained(
            options.path,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            device_map=device_map,
            use_safetensors=True if options.safetensors_only else None,
            output_loading_info=True,
            generation_config=transformers.GenerationConfig(**options.special_ids),
            **_trust(options),
            **quantization,
        )
        check_complete(found["missing_keys"], model, options.model_path)
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
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, **_trust(options))
    if not template_files.default_of(tokenizer.chat_template):
        found = template_files.processor_template(Path(path))
        tokenizer.chat_template = found or tokenizer.chat_template
    return tokenizer


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
    if torch.cuda.is_available() and device != "cpu":
        visible_gpus.check(options.visible_gpu, torch.cuda.device_count())
    if torch.cuda.is_available() and device == "auto":
        return wanted if torch.cuda.device_count() > 1 else "cuda:0"
    if needs_gpu and not torch.cuda.is_available():
        option = "--visible_gpu" if device == "auto" else f"--device {device}"
        raise StartError(
            f"{option} asks for a GPU, but torch {torch.__version__} finds none that it can use"
            f"{_no_gpu_reason()}; --device cpu computes on the processor"
        )
    return None if device in ("auto", "cpu") else device


def _choose_cards(
    device_map: str | dict[str, Any] | None, config: Any, options: LoadOptions
) -> tuple[str | dict[str, Any] | None, str]:
    """Return the device map, of one card if the model fits on it, and the name of the dtype."""
    if not isinstance(device_map, str) or not torch.cuda.is_available():
        return device_map, options.dtype
    found = cards.found()
    if device_map == "auto" and (weights := _weights_bytes(options)):
        itemsize = 4 if options.dtype == "float32" else 2
        needed = cards.needed_bytes(weights, config, options.tokens, itemsize)
        device_map = cards.on_one(found, needed) or device_map
    used = [one for one in found if device_map == f"cuda:{one.index}"] or found
    is_told = options.dtype != "auto" or options.load_8bits
    return device_map, options.dtype if is_told else cards.half_precision(config, used)


def _weights_bytes(options: LoadOptions) -> int:
    """Return the size of the weights as they lie there; 0 if they are not in a folder."""
    try:
        return sum(one.size for one in find(Path(options.path)))
    except (InvalidModelFile, OSError):
        return 0


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
def _explaining(options: LoadOptions) -> Iterator[None]:
    """Raise StartError with one line for whatever loading raises."""
    path = options.model_path
    try:
        yield
    except KuwaError:
        raise
    except pickle.UnpicklingError:
        raise StartError(
            f"{path} cannot be loaded: a .bin file of it holds more than weights, and reading that "
            "could run somebody's code; take the model's .safetensors files"
        ) from None
    except Exception as error:  # the library raises whatever its readers raise
        errors.check(error, ())
        if errors.is_out_of_memory(error):
            raise StartError(f"{path} does not fit into memory; a smaller --dtype may") from None
        logger.debug("loading failed", exc_info=True)
        raise StartError(f"{path} {_reason(error, options)}") from None


def _reason(error: Exception, options: LoadOptions) -> str:
    """Return why a folder cannot be loaded, in one line; what to do may end a long message."""
    text = "".join(filter(str.isprintable, " ".join(str(error).split())))
    if "trust_remote_code" in text and not options.trust_remote_code:
        files = join_names(sorted(one.name for one in Path(options.path).glob("*.py")))
        return (
            f"needs Python code of its own ({files or 'which is not in its folder'}), which may do "
            "anything with your rights; read it, then start with --trust_remote_code"
        )
    if options.trust_remote_code and (place := _repository_of_code(options.path)):
        return (
            f"needs Python code of {printable(place)}, which is not in its folder; copy the .py "
            f"files of that one into it, and take `{printable(place)}--` out of its config.json"
        )
    if isinstance(error, ImportError) and (missing := MISSING_PACKAGES.search(text)):
        return f"has Python code that needs {not_installed(missing[1].split(', '))}"
    if unknown := UNKNOWN_TYPE.search(text):
        return (
            f"is a model of the type {printable(unknown[1])}, which transformers "
            f"{transformers.__version__} does not know; a file built with a newer one "
            "(build.py huggingface --newest) may, and a GGUF of it may run with `llamacpp`"
        )
    return f"cannot be loaded: {type(error).__name__}: {text[:MAX_REASON]}"


def _repository_of_code(path: str) -> str:
    """Return the name on the hub where config.json says that the code lies; "" if it says none."""
    try:
        places = read_json(Path(path) / "config.json").get("auto_map")
    except InvalidModelFile:
        return ""
    named = list(places.values()) if isinstance(places, dict) else []
    found = [one for one in named if isinstance(one, str) and "--" in one]
    return found[0].partition("--")[0] if found else ""


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
