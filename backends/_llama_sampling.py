"""Choose the next token of each row: the likeliest one, or one that llama.cpp's samplers draw."""

from __future__ import annotations

import random
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp
import numpy

from kuwa_min.errors import AnswerError
from kuwa_min.sentences import OVERFLOWED, TRY_CACHE_TYPE

from ._llama_context import LlamaContext, Outcome

REMEMBERED = 64  # tokens that penalties look back on
LEAST_KEPT = 1  # tokens that are left to draw from
MIROSTAT_CANDIDATES = 100
SEEDS = 2**32
NOT_A_NUMBER = OVERFLOWED.format(TRY_CACHE_TYPE)


class Sampler:
    """How one answer's tokens are chosen, and what it has chosen so far.

    options: every name of the backend's table; vocabulary: how many tokens there are.
    """

    def __init__(self, options: Mapping[str, Any], vocabulary: int) -> None:
        self.chain: Any = None  # of llama.cpp; None: the likeliest token is taken
        biases = _biases(options.get("logit_bias"), vocabulary)
        steps = [*biases, *_penalties(options, vocabulary), *_draw(options, vocabulary)]
        if steps:
            params = llama_cpp.llama_sampler_chain_default_params()
            params.no_perf = True
            self.chain = llama_cpp.llama_sampler_chain_init(params)
            weakref.finalize(self, llama_cpp.llama_sampler_free, self.chain).atexit = False
            for step in steps if options["temperature"] else [*steps, _greedy()]:
                llama_cpp.llama_sampler_chain_add(self.chain, step)


def _biases(biases: Mapping[int, float] | None, vocabulary: int) -> list[Any]:
    """Return what adds to the logits of tokens, which penalties see changed."""
    known = [(token, bias) for token, bias in (biases or {}).items() if 0 <= token < vocabulary]
    if not known:
        return []
    array = (llama_cpp.llama_logit_bias * len(known))(*known)
    return [llama_cpp.llama_sampler_init_logit_bias(vocabulary, len(known), array)]


def _penalties(options: Mapping[str, Any], vocabulary: int) -> list[Any]:
    repeat, frequency, presence = (
        options[f"{name}_penalty"] for name in ("repeat", "frequency", "presence")
    )
    if repeat == 1 and not (frequency or presence):
        return []
    made = llama_cpp.llama_sampler_init_penalties(
        vocabulary, REMEMBERED, repeat, frequency, presence
    )
    return [made]


def _greedy() -> Any:
    return llama_cpp.llama_sampler_init_greedy()


def _draw(options: Mapping[str, Any], vocabulary: int) -> list[Any]:
    """Return the samplers in the order in which llama-cpp-python chains them."""
    if not options["temperature"]:
        return []
    seed = random.randrange(SEEDS) if options["seed"] in (None, -1) else options["seed"]
    tau, eta = options["mirostat_tau"], options["mirostat_eta"]
    if options["mirostat_mode"] == 1:
        return [
            llama_cpp.llama_sampler_init_mirostat(vocabulary, seed, tau, eta, MIROSTAT_CANDIDATES)
        ]
    if options["mirostat_mode"] == 2:
        return [llama_cpp.llama_sampler_init_mirostat_v2(seed, tau, eta)]
    return [
        llama_cpp.llama_sampler_init_top_k(options["top_k"]),
        llama_cpp.llama_sampler_init_typical(options["typical_p"], LEAST_KEPT),
        llama_cpp.llama_sampler_init_top_p(options["top_p"], LEAST_KEPT),
        llama_cpp.llama_sampler_init_min_p(options["min_p"], LEAST_KEPT),
        llama_cpp.llama_sampler_init_temp(options["temperature"]),
        llama_cpp.llama_sampler_init_dist(seed),
    ]


def choose(
    context: LlamaContext, outcome: Outcome, samplers: Sequence[Sampler]
) -> list[int | AnswerError]:
    """Return the next token of each row, or what the person reads if its logits are no numbers."""
    likeliest = outcome.logits.argmax(-1)  # the first that is no number, if there is one
    highest = outcome.logits[numpy.arange(len(samplers)), likeliest]
    found: list[int | AnswerError] = likeliest.tolist()
    for at, is_number in enumerate(numpy.isfinite(highest).tolist()):
        if not is_number:
            found[at] = AnswerError(NOT_A_NUMBER)
        elif samplers[at].chain is not None:
            found[at] = context.draw(samplers[at].chain, outcome.places[at])
    return found
