"""The context window of a service's model: the tokens of prompt and answer together.

Services list it under many names; OpenAI does not list it at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

NAMES = (  # the most exact first: what a server was started with, then what its model could do
    "max_model_len",  # vLLM, SGLang
    "n_ctx",  # llama-server
    "context_window",  # Groq
    "context_length",  # OpenRouter, Together
    "max_context_length",  # Mistral, LM Studio
    "max_input_tokens",  # LiteLLM, Anthropic
    "inputTokenLimit",  # Google
    "n_ctx_train",  # llama-server
)
NESTED = ("meta", "top_provider", "model_info", "limits")  # objects of an entry that may hold them
FAMILIES = {  # OpenAI's models by the beginning of a name; the longest match counts
    "gpt-3.5-turbo": 16_385,
    "gpt-3.5-turbo-instruct": 4_096,
    "gpt-4": 8_192,
    "gpt-4-32k": 32_768,
    "gpt-4-turbo": 128_000,
    "gpt-4-1106": 128_000,
    "gpt-4-0125": 128_000,
    "gpt-4o": 128_000,
    "gpt-4.1": 1_047_576,
    "gpt-4.5": 128_000,
    "gpt-5": 400_000,
    "gpt-5-chat": 128_000,
    "gpt-oss": 131_072,
    "chatgpt-4o": 128_000,
    "o1": 200_000,
    "o1-mini": 128_000,
    "o1-preview": 128_000,
    "o3": 200_000,
    "o4": 200_000,
}


def from_model_list(models: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the context windows that a service's list of models tells, by model."""
    found = {}
    for one in models:
        window = _window(one)
        if window and isinstance(one.get("id"), str):
            found[one["id"]] = window
    return found


def _window(entry: Mapping[str, Any]) -> int | None:
    nested = [entry.get(name) for name in NESTED]
    objects = [entry, *(one for one in nested if isinstance(one, Mapping))]
    values = (one.get(name) for name in NAMES for one in objects)
    return next((value for value in values if type(value) is int and value > 0), None)


def from_model_name(model: str) -> int | None:
    """Return the context window of a model of OpenAI by its name, whichever service runs it."""
    name = model.rpartition("/")[2]
    known = [family for family in FAMILIES if name.startswith(family)]
    return FAMILIES[max(known, key=len)] if known else None
