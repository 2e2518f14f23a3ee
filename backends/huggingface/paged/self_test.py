"""Decide at the start whether a model's attention is computed over pages: compute, and compare."""

from __future__ import annotations

import logging

import torch

from backends.huggingface.batching.attention_mask import AttentionLayout
from backends.huggingface.batching_check import batching_error, distance, logits_alone, max_error
from backends.huggingface.device.errors import DeviceLost, first_line
from backends.huggingface.model import TransformersModel

from .attention import NAME
from .kernels import Fallback, kernel
from .page_tables import PAGE

logger = logging.getLogger(__name__)

MORE = 44  # tokens of the long prompt beyond a page and beyond the window
LONGEST = 5000  # of its tokens


def paged_layout(model: TransformersModel, layout: AttentionLayout) -> AttentionLayout:
    """Return the layout of a model whose attention is computed over pages from now on.

    The layout as it was, and the library's own attention, where that cannot be: the log says why,
    but for models that are not on one GPU. Raises DeviceLost.
    """
    attention = kernel(model)
    if attention is None:
        return layout
    if isinstance(attention, str):
        reason = attention
    else:
        reason = _fault(model, layout, layout._replace(attention=attention))
        if not reason:
            logger.info("attention is computed over pages of %d columns", PAGE)
            return layout._replace(attention=Fallback(attention))
    logger.info("attention is not computed over pages: %s", reason)
    return layout


def _fault(model: TransformersModel, layout: AttentionLayout, paged: AttentionLayout) -> str:
    """Return why a model's attention cannot be computed over pages; "" if it now is."""
    library = model.library_model
    if layout.mask_dtype is not None:
        return "the model's own code computes it"
    try:
        right = _logits(model, layout)
        library.set_attn_implementation(NAME)
        if model.text_config._attn_implementation != NAME:
            raise ValueError("the library lets the model have no other attention")
        error = max(batching_error(model, paged, right[:-1]), _long_error(model, paged, right[-1:]))
    except Exception as failure:  # noqa: BLE001 - the library's own attention needs none of this
        _check_device(model, failure)
        reason = first_line(failure)
    else:
        if error <= max_error(library.dtype):
            return ""
        reason = f"the results differ (error {error:.2g})"
    library.set_attn_implementation("sdpa")
    return reason


def _check_device(model: TransformersModel, failure: Exception) -> None:
    """Raise DeviceLost if the GPU is lost, and say how to start without this test."""
    try:
        model.check_device(failure)
    except DeviceLost:
        logger.error("the test of attention over pages failed; --paged_attention off leaves it out")
        raise


@torch.inference_mode()
def _logits(model: TransformersModel, layout: AttentionLayout) -> torch.Tensor:
    return torch.cat([logits_alone(model), logits_alone(model, [_long_prompt(model, layout)])])


def _long_prompt(model: TransformersModel, layout: AttentionLayout) -> list[int]:
    """Return a prompt that is longer than a page and the window, if the context allows it."""
    length = min(max(PAGE, layout.window) + MORE, LONGEST, model.context_length)
    return [(7 * place + 1) % model.vocabulary_size for place in range(length)]


@torch.inference_mode()
def _long_error(model: TransformersModel, layout: AttentionLayout, right: torch.Tensor) -> float:
    """Return how far logits are from the right ones [1, vocabulary], relative to these.

    They are those of a long prompt in two parts, whose last token two slots compute that share the
    rest.
    """
    prompt = torch.tensor(_long_prompt(model, layout), device=model.device)
    last = len(prompt) - 1
    cache = layout.create_cache(model.device)
    for first, end in ((0, last // 2), (last // 2, last)):
        cache.reserve(1, [(0, first, end)])
        cache.prefill(0, first)
        places = torch.arange(first, end, device=model.device)
        model.forward(prompt[None, first:end], places[None], None, cache)
    cache.copy(0, 1, last)
    cache.reserve(2, [(slot, last, last + 1) for slot in range(2)])
    lengths = torch.full((2,), last, device=model.device)
    cache.decode(lengths, longest=last, is_even=True)
    logits = model.forward(prompt[-1:].expand(2, 1), lengths[:, None], None, cache)[:, -1]
    return distance(logits, right.expand(2, -1))
