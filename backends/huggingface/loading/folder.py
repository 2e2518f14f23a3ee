"""Load a transformers folder: configuration, processor, tokenizer and weights."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from backends._local.model_files import template_files

from .failures import explaining
from .load_options import LoadOptions, Progress
from .model_kind import check_complete, check_writes_text
from .peft_adapters import merge
from .placement import choose_cards, choose_device_map, stored_bytes
from .quantised import check_fits, dequantised_bytes, find_form

logger = logging.getLogger(__name__)


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
    device_map = choose_device_map(options)
    with _reporting(progress), explaining(options):
        config = transformers.AutoConfig.from_pretrained(options.path, **_trust(options))
        model_class = _model_class(config)
        check_writes_text(config, model_class, options.model_path)
        form, weights = find_form(config, device_map, options), stored_bytes(options)
        if form.dequantised:
            weights = dequantised_bytes(config, model_class, options)
        device_map, dtype = choose_cards(device_map, config, options, weights)
        if form.dequantised:
            check_fits(form, weights, device_map, options)
        processor = _load_processor(config, options)
        tokenizer = _load_tokenizer(processor, options)
        model, found = model_class.from_pretrained(
            options.path,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            device_map=device_map,
            use_safetensors=True if options.safetensors_only else None,
            output_loading_info=True,
            generation_config=transformers.GenerationConfig(**options.special_ids),
            **_trust(options),
            **form.arguments,
        )
        check_complete(found["missing_keys"], model, options.model_path)
        merge(model, options.adapters)
    return Loaded(config, processor, tokenizer, model.eval())


def _load_processor(config: Any, options: LoadOptions) -> Any:
    if not _accepts_images(config):
        return None
    from backends.huggingface.vision import load_processor

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


def _trust(options: LoadOptions) -> dict[str, bool]:
    return {"trust_remote_code": options.trust_remote_code}


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
