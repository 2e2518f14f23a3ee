"""Sample the next token of each sequence: greedily with numpy, else with llama.cpp's samplers."""

from __future__ import annotations

import random
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp
import numpy

from backends._local.sentences import TRY_CACHE_TYPE
from kuwa_min.chat.catalog import OVERFLOWED
from kuwa_min.errors import AnswerError

from .context import DecodeResult, LlamaContext

PENALTY_WINDOW = 64  # tokens that penalties look back on
MIN_KEEP = 1  # tokens that a sampler leaves
MIROSTAT_CANDIDATES = 100
SEEDS = 2**32
NOT_A_NUMBER = OVERFLOWED.format(TRY_CACHE_TYPE)


class Sampler:
    """The sampler chain of one sequence, which records the tokens that it samples.

    options: every name of the backend's table; vocabulary_size: in tokens.
    """

    def __init__(self, options: Mapping[str, Any], vocabulary_size: int) -> None:
        self.chain: Any = None  # llama.cpp's pointer; None for greedy sampling
        biases = _logit_biases(options.get("logit_bias"), vocabulary_size)
        penalties = _penalties(options, vocabulary_size)
        samplers = [*biases, *penalties, *_sampling(options, vocabulary_size)]
        if samplers:
            params = llama_cpp.llama_sampler_chain_default_params()
            params.no_perf = True
            self.chain = llama_cpp.llama_sampler_chain_init(params)
            weakref.finalize(self, llama_cpp.llama_sampler_free, self.chain).atexit = False
            for sampler in samplers if options["temperature"] else [*samplers, _greedy()]:
                llama_cpp.llama_sampler_chain_add(self.chain, sampler)


def _logit_biases(biases: Mapping[int, float] | None, vocabulary_size: int) -> list[Any]:
    """Return the sampler that adds to logits, before the penalties."""
    known = [
        (token, bias) for token, bias in (biases or {}).items() if 0 <= token < vocabulary_size
    ]
    if not known:
        return []
    array = (llama_cpp.llama_logit_bias * len(known))(*known)
    return [llama_cpp.llama_sampler_init_logit_bias(vocabulary_size, len(known), array)]


def _penalties(options: Mapping[str, Any], vocabulary_size: int) -> list[Any]:
    repeat, frequency, presence = (
        options[f"{name}_penalty"] for name in ("repeat", "frequency", "presence")
    )
    if repeat == 1 and not (frequency or presence):
        return []
    sampler = llama_cpp.llama_sampler_init_penalties(
        vocabulary_size, PENALTY_WINDOW, repeat, frequency, presence
    )
    return [sampler]


def _greedy() -> Any:
    return llama_cpp.llama_sampler_init_greedy()


def _sampling(options: Mapping[str, Any], vocabulary_size: int) -> list[Any]:
    """Return the samplers in the order of llama-cpp-python's chain."""
    if not options["temperature"]:
        return []
    seed = random.randrange(SEEDS) if options["seed"] in (None, -1) else options["seed"]
    tau, eta = options["mirostat_tau"], options["mirostat_eta"]
    if options["mirostat_mode"] == 1:
        return [
            llama_cpp.llama_sampler_init_mirostat(
                vocabulary_size, seed, tau, eta, MIROSTAT_CANDIDATES
            )
        ]
    if options["mirostat_mode"] == 2:
        return [llama_cpp.llama_sampler_init_mirostat_v2(seed, tau, eta)]
    return [
        llama_cpp.llama_sampler_init_top_k(options["top_k"]),
        llama_cpp.llama_sampler_init_typical(options["typical_p"], MIN_KEEP),
        llama_cpp.llama_sampler_init_top_p(options["top_p"], MIN_KEEP),
        llama_cpp.llama_sampler_init_min_p(options["min_p"], MIN_KEEP),
        llama_cpp.llama_sampler_init_temp(options["temperature"]),
        llama_cpp.llama_sampler_init_dist(seed),
    ]


def sample(
    context: LlamaContext, result: DecodeResult, samplers: Sequence[Sampler]
) -> list[int | AnswerError]:
    """Return each sequence's next token, or the error to end with if its logits are NaN."""
    best = result.logits.argmax(-1)  # the first NaN, if there is one
    highest = result.logits[numpy.arange(len(samplers)), best]
    tokens: list[int | AnswerError] = best.tolist()
    for at, is_finite in enumerate(numpy.isfinite(highest).tolist()):
        if not is_finite:
            tokens[at] = AnswerError(NOT_A_NUMBER)
        elif samplers[at].chain is not None:
            tokens[at] = context.sample(samplers[at].chain, result.positions[at])
    return tokens
