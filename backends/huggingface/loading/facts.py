"""Facts about a loaded model and its tokenizer, wherever the library's objects state them."""

from __future__ import annotations

import inspect
from typing import Any

import torch

MAX_LENGTH = 1e9  # tokens; a tokenizer's model_max_length beyond it means "unknown"
DEFAULT_CONTEXT = 4096  # tokens, where neither configuration nor tokenizer states it


def special_tokens(tokenizer: Any) -> dict[str, Any]:
    """Return the special tokens as text, by the names that chat templates use."""
    return {
        name: value
        for name, value in tokenizer.special_tokens_map.items()
        if isinstance(value, (str, list))
    }


def markup(tokenizer: Any) -> dict[int, str]:
    """Return the text of the special tokens, which detokenizers leave out."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    names = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return names | {token: str(one) for token, one in added.items() if one.special}


def embeddings(model: Any, default: int) -> int:
    """Return the number of input embeddings; the default if the model does not expose them."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (AttributeError, NotImplementedError):  # code that came with a model
        return default


def cache_argument(model: Any) -> str:
    """Return forward()'s name for the cache: transformers 5.24 renamed it, remote code did not."""
    known = inspect.signature(model.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def layers(model: Any) -> list[Any]:
    """Return the model's layers: the module lists with as many entries as it has layers."""
    lists = [one for one in model.modules() if isinstance(one, torch.nn.ModuleList)]
    count = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    return [layer for one in lists if len(one) == count for layer in one]


def eos_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Return the EOS token ids of all three places that state them: they do not always agree."""
    places = (model.generation_config, model.config.get_text_config(), tokenizer)
    found: list[int] = []
    for place in places:
        ids = getattr(place, "eos_token_id", None)
        found += ids if isinstance(ids, list) else [ids]
    return list(dict.fromkeys(token for token in found if type(token) is int))


def context_length(model: Any, tokenizer: Any) -> int:
    """Return the context in tokens, the shorter one if configuration and tokenizer differ."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    known = [length for length in (positions, tokenizer.model_max_length) if length]
    lengths = [int(length) for length in known if length < MAX_LENGTH]
    return min(lengths, default=DEFAULT_CONTEXT)
