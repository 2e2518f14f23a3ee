"""Load what a folder holds with transformers: configuration, processor, tokenizer, weights."""

from __future__ import annotations

import argparse
import contextlib
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import transformers

from kuwa_min.errors import KuwaError, StartError, UsageError

logger = logging.getLogger(__name__)

PLACES = ("balanced", "balanced_low_0", "sequential")  # that accelerate chooses by itself
Progress = Callable[[int, int], None]  # called with what is done and what is to do


SHOWN = 300  # characters of what the library says


class Loaded(NamedTuple):
    """What a folder holds, as the library's own objects."""

    config: Any
    processor: Any  # what prepares pictures; None for a model of text alone
    tokenizer: Any
    model: Any


def load(path: str, args: argparse.Namespace, progress: Progress) -> Loaded:
    """Load a folder; raises StartError or UsageError saying in one line why it cannot be."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    placement = _choose_device(args)
    with _showing(progress), _explaining(path):
        config = transformers.AutoConfig.from_pretrained(path, **_trust(args))
        processor = _processor(path, config, args)
        tokenizer = _tokenizer(path, processor, args)
        loader = _loader(config)
        more = {}
        if args.load_8bits:
            more["quantization_config"] = transformers.BitsAndBytesConfig(load_in_8bit=True)
        model = loader.from_pretrained(
            path,
            dtype=args.dtype if args.dtype == "auto" else getattr(torch, args.dtype),
            device_map=placement,
            use_safetensors=True if args.safetensors_only else None,
            **_trust(args),
            **more,
        )
    return Loaded(config, processor, tokenizer, model.eval())


def _processor(path: str, config: Any, args: argparse.Namespace) -> Any:
    if not _sees(config):
        return None
    from ._transformers_vision import load_processor

    try:
        return load_processor(path, args)
    except ImportError as error:  # some want torchvision, which is not in the file
        reason = " ".join(str(error).split()).partition(". ")[0]
        logger.warning("%s sees no pictures, and answers text: %s", args.model_path, reason)
        return None


def _sees(config: Any) -> bool:
    """Tell whether a model of this configuration reads pictures and says text."""
    known = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return known or "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})


def _tokenizer(path: str, processor: Any, args: argparse.Namespace) -> Any:
    if processor is not None and not args.tokenizer:
        return processor.tokenizer
    return transformers.AutoTokenizer.from_pretrained(args.tokenizer or path, **_trust(args))


def _loader(config: Any) -> Any:
    if _sees(config):
        return transformers.AutoModelForImageTextToText
    # the other class would load some of them as well, without what reads the question
    encodes = config.is_encoder_decoder
    return transformers.AutoModelForSeq2SeqLM if encodes else transformers.AutoModelForCausalLM


def _choose_device(args: argparse.Namespace) -> str | dict[str, Any] | None:
    """Return a device map; raises StartError if a GPU was asked for and none is usable."""
    wanted = args.device_map or "auto"
    if wanted != "auto" and args.device != "auto":
        raise UsageError("--device and --device_map exclude each other")
    if isinstance(wanted, dict):
        return wanted
    if wanted not in ("auto", *PLACES):
        args.device = wanted
    if args.device != "auto":
        _check_device(args.device)
    asked = args.visible_gpu if args.device == "auto" else args.device.startswith("cuda")
    if torch.cuda.is_available() and args.device == "auto":
        return wanted if torch.cuda.device_count() > 1 else "cuda:0"
    if asked and not torch.cuda.is_available():
        option = "--visible_gpu" if args.device == "auto" else f"--device {args.device}"
        raise StartError(
            f"{option} asks for a GPU, but torch {torch.__version__} finds none that it can use"
            f"{_why_no_gpu()}; --device cpu computes on the processor"
        )
    return None if args.device in ("auto", "cpu") else str(args.device)


def _check_device(name: str) -> None:
    try:
        torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name} is no device: auto, cpu, cuda or cuda:N") from None


def _why_no_gpu() -> str:
    return "" if torch.version.cuda else " (it was built without CUDA)"


def _trust(args: argparse.Namespace) -> dict[str, bool]:
    return {"trust_remote_code": args.trust_remote_code}


@contextlib.contextmanager
def _explaining(path: str) -> Iterator[None]:
    """Say in one line why a model cannot be loaded."""
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
        reason = " ".join(str(error).split())[:SHOWN]
        reason = "".join(filter(str.isprintable, reason))
        raise StartError(f"{path} cannot be loaded: {type(error).__name__}: {reason}") from None


@contextlib.contextmanager
def _showing(progress: Progress) -> Iterator[None]:
    """Report the library's progress as ours, weight by weight."""

    def follow(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Iterator[Any]:
        things = list(args[0] if args else options["iterable"])
        progress(0, len(things))
        for done, thing in enumerate(things, 1):
            yield thing
            progress(done, len(things))

    former = transformers.logging.set_tqdm_hook(follow)
    try:
        yield
    finally:
        transformers.logging.set_tqdm_hook(former)
