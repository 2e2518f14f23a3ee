"""The generation options of llama-cpp-python's create_completion that the table lacks."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

import llama_cpp

from kuwa_min.chat.sentence import Sentence
from kuwa_min.options import generation_options
from kuwa_min.options.sentences import (
    MUST_BE_BIASES,
    MUST_HAVE_FEWER_TOKENS,
    MUST_MAP_TOKENS,
    OPTION_REASON,
)

PASSED = ("logit_bias",)
FOR_BOTS = (*PASSED, "lora")
MAX_BIASES = 1024  # tokens
MAX_BIAS = 1000  # added to or subtracted from a logit


def library(ignored: Collection[str]) -> generation_options.Library:
    """Return the parameters of create_completion, and those of them that are passed on.

    ignored: names that it may not have any more. Not passed on: those that make no text (logprobs,
    echo, suffix), those that are Python objects (grammar, logits_processor), and those that are
    ours (stream, model).
    """
    parameters = inspect.signature(llama_cpp.Llama.create_completion).parameters
    known = {*parameters, *ignored, *FOR_BOTS} - {"self", "prompt"}
    name = "llama_cpp.Llama.create_completion"
    return generation_options.Library(name, known, PASSED, FOR_BOTS, _convert)


def _convert(name: str, value: Any) -> Any:
    return _logit_bias(name, value) if name in PASSED else str(value)


def _logit_bias(name: str, value: Any) -> dict[int, float]:
    """Return the number to add to each token's logit, by token id; raises ValueError."""
    try:
        biases = {int(token): float(bias) for token, bias in value.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise _refused(name, MUST_MAP_TOKENS) from None
    if len(biases) > MAX_BIASES:
        raise _refused(name, MUST_HAVE_FEWER_TOKENS.format(MAX_BIASES))
    if not all(abs(bias) <= MAX_BIAS for bias in biases.values()):
        raise _refused(name, MUST_BE_BIASES.format(-MAX_BIAS, MAX_BIAS))
    return biases


def _refused(name: str, reason: Sentence) -> ValueError:
    return ValueError(OPTION_REASON.format(name, reason))
