"""Know what llama-cpp-python's create_completion takes beyond the backend's table."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

import llama_cpp

from kuwa_min import generation, sentences

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
        raise _refused(name, sentences.MUST_MAP_TOKENS) from None
    if len(biases) > MOST_BIASES:
        raise _refused(name, sentences.MUST_HAVE_FEWER_TOKENS.format(MOST_BIASES))
    if not all(abs(bias) <= HIGHEST_BIAS for bias in biases.values()):
        raise _refused(name, sentences.MUST_BE_BIASES.format(-HIGHEST_BIAS, HIGHEST_BIAS))
    return biases


def _refused(name: str, reason: sentences.Sentence) -> ValueError:
    return ValueError(sentences.OPTION_REASON.format(name, reason))
