"""Know what llama-cpp-python's create_completion takes beyond the backend's table."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

import llama_cpp

from kuwa_min import generation

PASSED = ("logit_bias",)
MOST_BIASES, HIGHEST_BIAS = 1024, 1000


def library(idle: Collection[str]) -> generation.Library:
    """Return the parameters of the library's function; idle: those that it may not have any more.

    What is not passed: what makes no text (logprobs, echo, suffix), what must be an object of
    Python's (grammar, logits_processor), and what is ours (stream, model).
    """
    parameters = inspect.signature(llama_cpp.Llama.create_completion).parameters
    known = {*parameters, *idle} - {"self", "prompt"}
    name = "llama_cpp.Llama.create_completion"
    return generation.Library(name, known, PASSED, PASSED, _logit_bias)


def _logit_bias(name: str, value: Any) -> dict[int, float]:
    """Return what is added to the logits of tokens, by the tokens' numbers."""
    try:
        biases = {int(token): float(bias) for token, bias in value.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must map tokens' numbers to numbers") from None
    if len(biases) > MOST_BIASES:
        raise ValueError(f"{name} must have {MOST_BIASES} tokens at most")
    if not all(abs(bias) <= HIGHEST_BIAS for bias in biases.values()):
        raise ValueError(f"{name} must be from -{HIGHEST_BIAS} to {HIGHEST_BIAS} for each token")
    return biases
