"""Find out whether a model can be batched by rows: look at it, then let it compute and compare."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from transformers import DynamicCache

from ._transformers_cache import RowsCache
from ._transformers_masks import Layout, Masks, layout_of
from ._transformers_model import TransformersModel

logger = logging.getLogger(__name__)

ASKED = ("position_ids", "attention_mask", "logits_to_keep")  # of forward()
STRETCHING = ("dynamic", "longrope")  # positions whose meaning changes with the longest neighbour
SPECIAL = (  # what generate() alone does, if a model's generation_config asks for it
    *("bad_words_ids", "begin_suppress_tokens", "suppress_tokens", "sequence_bias"),
    *("exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id"),
    *("guidance_scale", "watermarking_config"),
)
LENGTHS = (5, 9)  # tokens of the two prompts of the test
CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}  # largest error, relative to the logits
CLOSE_ELSE = 0.25  # of half precision, where rounding may choose another expert for a token


def examine(model: TransformersModel) -> Layout | str:
    """Return how a model's layers can be batched by rows, or the reason why they cannot."""
    reason = _looks_strange(model)
    if reason:
        return reason
    layout = layout_of(model.config, model.library_model.dtype)
    if isinstance(layout, str):
        return layout
    try:
        error = _error(model, layout)
    except Exception as failure:
        if model.is_out_of_memory(failure):
            raise
        logger.debug("the test of batching failed", exc_info=True)
        return f"the test of batching failed ({type(failure).__name__})"
    if not error <= CLOSE.get(model.library_model.dtype, CLOSE_ELSE):
        return f"two chats at once are not computed as they are alone (error {error:.2g})"
    return layout


def _looks_strange(model: TransformersModel) -> str:
    library = model.library_model
    if model.beyond:
        return f"the options ask for {', '.join(model.beyond)}"
    if model.processor is not None:
        return "it sees pictures"
    if library.config.is_encoder_decoder:
        return "it has an encoder"
    known = inspect.signature(library.forward).parameters
    missing = [name for name in (*ASKED, model.cache_name) if name not in known]
    if missing:
        return f"its forward() takes no {', '.join(missing)}"
    if _rope_kinds(getattr(model.config, "rope_parameters", None)) & set(STRETCHING):
        return "what its positions mean changes with the longest chat"
    asked = [name for name in SPECIAL if getattr(library.generation_config, name, None) is not None]
    return f"its generation_config.json asks for {', '.join(asked)}" if asked else ""


def _rope_kinds(parameters: Any) -> set[str]:
    """Return the kinds of rotary positions; configurations may have them by kind of layer."""
    if not isinstance(parameters, dict):
        return set()
    inner = (_rope_kinds(value) for value in parameters.values())
    return {str(parameters.get("rope_type"))}.union(*inner)


@torch.inference_mode()
def _error(model: TransformersModel, layout: Layout) -> float:
    """Return how far the logits of two rows at once are from those of each alone."""
    prompts = [list(range(1, length + 1)) for length in LENGTHS]
    alone = torch.cat([_alone(model, prompt) for prompt in prompts])
    cache, masks = RowsCache(layout.layers), Masks(layout)
    cache.reserve(len(prompts), max(LENGTHS))
    for row, prompt in enumerate(prompts):
        cache.read(row, 0)
        positions = _tensor(model, [list(range(len(prompt) - 1))])
        model.forward(_tensor(model, [prompt[:-1]]), positions, None, cache)
    ends = torch.tensor([len(prompt) - 1 for prompt in prompts], device=model.device)
    cache.extend(ends, past=max(LENGTHS) - 1, is_even=False)
    mask = masks.until(ends, max(LENGTHS) - 1)
    last = _tensor(model, [one[-1:] for one in prompts])
    both = model.forward(last, ends[:, None], mask, cache)[:, -1]
    return max(_distance(both, alone), _distance(_packed(model, layout, prompts), alone))


def _distance(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found.float() - right).norm() / right.norm())


def _packed(model: TransformersModel, layout: Layout, prompts: list[list[int]]) -> torch.Tensor:
    """Return the logits of two prompts that are read as one."""
    cache, lengths = RowsCache(layout.layers), [len(prompt) for prompt in prompts]
    cache.reserve(len(prompts), max(lengths))
    cache.read_packed(list(enumerate(lengths)))
    tokens = _tensor(model, [[token for prompt in prompts for token in prompt]])
    positions = _tensor(model, [[place for prompt in prompts for place in range(len(prompt))]])
    wanted = torch.tensor(lengths, device=model.device).cumsum(-1) - 1
    mask = Masks(layout).packed(lengths, model.device)
    return model.forward(tokens, positions, mask, cache, wanted=wanted)[0]


def _alone(model: TransformersModel, prompt: list[int]) -> torch.Tensor:
    """Return a row of logits as the library computes it by itself, in one go."""
    cache = DynamicCache(config=model.library_model.config)
    done = model.library_model(input_ids=_tensor(model, [prompt]), **{model.cache_name: cache})
    logits: torch.Tensor = done.logits[:, -1].float()
    return logits


def _tensor(model: TransformersModel, numbers: list[list[int]]) -> torch.Tensor:
    return torch.tensor(numbers, device=model.device)
