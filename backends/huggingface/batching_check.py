"""Find out whether a model's sequences can be batched: inspect it, then compute and compare."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from .batching.attention_mask import AttentionLayout, AttentionMasks, attention_layout
from .model import TransformersModel

logger = logging.getLogger(__name__)

ARGUMENTS = ("position_ids", "attention_mask", "logits_to_keep")  # that forward() must have
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")  # positions change with the longest sequence
PROMPTS = (range(1, 6), range(1, 10))  # tokens of the two test prompts
# Largest error relative to the logits; more in half precision, where rounding may send a token to
# another expert.
MAX_ERROR = {torch.float32: 1e-3, torch.float64: 1e-3}
MAX_ERROR_HALF = 0.25


def examine(model: TransformersModel) -> AttentionLayout | str:
    """Return the layout by which a model can be batched, or the reason why it cannot.

    Raises the library's error if memory runs out, StartError if a GPU fails.
    """
    reason = _unbatchable_reason(model)
    if reason:
        return reason
    layout = attention_layout(model.text_config, model.library_model.dtype)
    if isinstance(layout, str):
        return layout
    try:
        error = batching_error(model, layout, logits_alone(model))
    except Exception as failure:
        model.check_usable(failure)
        logger.debug("the test of batching failed", exc_info=True)
        return f"the test of batching failed ({type(failure).__name__})"
    if not error <= max_error(model.library_model.dtype):
        return f"two chats at once are not computed as they are alone (error {error:.2g})"
    return layout


def max_error(dtype: torch.dtype) -> float:
    """Return the largest error of logits, relative to them, that rounding explains."""
    return MAX_ERROR.get(dtype, MAX_ERROR_HALF)


def _unbatchable_reason(model: TransformersModel) -> str:
    """Return why a model cannot be batched, as far as options and configuration tell, or ""."""
    library = model.library_model
    if model.generate_options:
        return f"only generate() implements {', '.join(model.generate_options)}"
    if model.processor is not None:
        return "it sees pictures"
    if library.config.is_encoder_decoder:
        return "it has an encoder"
    known = inspect.signature(library.forward).parameters
    missing = [name for name in (*ARGUMENTS, model.cache_argument) if name not in known]
    if missing:
        return f"its forward() takes no {', '.join(missing)}"
    if _rope_types(getattr(model.text_config, "rope_parameters", None)) & set(
        LENGTH_DEPENDENT_ROPE
    ):
        return "what its positions mean changes with the longest chat"
    return ""


def _rope_types(parameters: Any) -> set[str]:
    """Return the types of rotary embeddings; configurations may nest them by kind of layer."""
    if not isinstance(parameters, dict):
        return set()
    nested = (_rope_types(value) for value in parameters.values())
    return {str(parameters.get("rope_type"))}.union(*nested)


@torch.inference_mode()
def batching_error(model: TransformersModel, layout: AttentionLayout, alone: torch.Tensor) -> float:
    """Return how far batched logits are from those of each test prompt alone, relative to these."""
    prompts = [list(prompt) for prompt in PROMPTS]
    decoded = _logits_decoded(model, layout, prompts)
    packed = _logits_packed(model, layout, prompts)
    return max(distance(decoded, alone), distance(packed, alone))


def distance(found: torch.Tensor, right: torch.Tensor) -> float:
    """Return how far logits are from the right ones, relative to these."""
    return float((found.float() - right).norm() / right.norm())


def _logits_decoded(
    model: TransformersModel, layout: AttentionLayout, prompts: list[list[int]]
) -> torch.Tensor:
    """Return the logits after a prefill of each prompt and a decode step of their last tokens."""
    cache, longest = layout.create_cache(model.device), max(map(len, prompts))
    for slot, prompt in enumerate(prompts):
        cache.reserve(len(prompts), [(slot, 0, len(prompt) - 1)])
        cache.prefill(slot, 0)
        positions = _tensor(model, [list(range(len(prompt) - 1))])
        model.forward(_tensor(model, [prompt[:-1]]), positions, None, cache)
    ends = [len(prompt) - 1 for prompt in prompts]
    cache.reserve(len(prompts), [(slot, end, end + 1) for slot, end in enumerate(ends)])
    lengths = torch.tensor(ends, device=model.device)
    cache.decode(lengths, longest=longest - 1, is_even=False)
    mask = AttentionMasks(layout).decode_mask(lengths, longest - 1)
    last = _tensor(model, [prompt[-1:] for prompt in prompts])
    return model.forward(last, lengths[:, None], mask, cache)[:, -1]


def _logits_packed(
    model: TransformersModel, layout: AttentionLayout, prompts: list[list[int]]
) -> torch.Tensor:
    """Return the logits after a packed prefill of the prompts."""
    cache, lengths = layout.create_cache(model.device), [len(prompt) for prompt in prompts]
    cache.reserve(len(prompts), [(slot, 0, length) for slot, length in enumerate(lengths)])
    cache.packed_prefill(list(enumerate(lengths)))
    tokens = _tensor(model, [[token for prompt in prompts for token in prompt]])
    positions = _tensor(model, [[place for prompt in prompts for place in range(len(prompt))]])
    last = torch.tensor(lengths, device=model.device).cumsum(-1) - 1
    mask = AttentionMasks(layout).packed_prefill_mask(lengths, model.device)
    return model.forward(tokens, positions, mask, cache, logits_to_keep=last)[0]


@torch.inference_mode()
def logits_alone(
    model: TransformersModel, prompts: Sequence[Sequence[int]] = PROMPTS
) -> torch.Tensor:
    """Return the logits [prompts, vocabulary] after prompts, as the library computes each alone."""
    return torch.cat([_logits_alone(model, list(prompt)) for prompt in prompts])


def _logits_alone(model: TransformersModel, prompt: list[int]) -> torch.Tensor:
    cache = DynamicCache(config=model.library_model.config)
    inputs = {"input_ids": _tensor(model, [prompt]), model.cache_argument: cache}
    logits: torch.Tensor = model.library_model(**inputs).logits[:, -1].float()
    return logits


def _tensor(model: TransformersModel, numbers: list[list[int]]) -> torch.Tensor:
    return torch.tensor(numbers, device=model.device)
