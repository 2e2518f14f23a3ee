"""Sample the next token of each sequence: penalties and argmax with numpy, draws with llama.cpp."""

from __future__ import annotations

import ctypes
import math
import random
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import llama_cpp
import numpy

from backends._local.answers.logprobs import SampledToken
from backends._local.constraints.matcher import MaskPendingError
from backends._local.request import MASK_WAIT
from backends._local.sentences import TRY_CACHE_TYPE
from kuwa_min.chat.catalog import OVERFLOWED
from kuwa_min.errors import AnswerError

from .batching.context import DecodeResult, LlamaContext
from .candidates import FEW, candidates

PENALTY_WINDOW = 64  # tokens that penalties look back on
MIN_KEEP = 1  # tokens that a sampler leaves
MIROSTAT_CANDIDATES = 100
SEEDS = 2**32
NOT_A_NUMBER = OVERFLOWED.format(TRY_CACHE_TYPE)

Adjustment = Callable[[Any, Collection[int]], None]  # of logits, by the tokens sampled last
NoToken = AnswerError | MaskPendingError


class Sampler:
    """How the tokens of one sequence are sampled, and those that have been.

    options: every name of the backend's table; vocabulary_size: in tokens; allowed: called with a
    deadline of time.monotonic(), returns the mask of the next token, a bit each, None if all are
    allowed; keeps_logits: for sampled().
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        vocabulary_size: int,
        allowed: Callable[[float], bytearray | None] = lambda _: None,
        *,
        keeps_logits: bool = False,
    ) -> None:
        self._allowed, self._few, self._keeps_logits = allowed, None, keeps_logits
        self._raw_logits: Any = None  # of the token that is sampled, before adjust()
        self._adjustments = (*_logit_biases(options, vocabulary_size), *_penalties(options))
        self._recent: deque[int] = deque(maxlen=PENALTY_WINDOW)
        self._chain: Any = None  # llama.cpp's pointer; None for greedy sampling
        self._narrow, options = _narrowing(options, vocabulary_size)
        if options["temperature"]:
            params = llama_cpp.llama_sampler_chain_default_params()
            params.no_perf = True
            self._chain = llama_cpp.llama_sampler_chain_init(params)
            weakref.finalize(self, llama_cpp.llama_sampler_free, self._chain).atexit = False
            for sampler in _sampling(options, vocabulary_size):
                llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def adjust(self, logits: Any, deadline: float = math.inf) -> None:
        """Add biases and penalties to the logits [vocabulary] in place; what is not allowed: -inf.

        deadline: of time.monotonic(). Raises AnswerError, and MaskPendingError if the mask is not
        known by then.
        """
        mask = self._allowed(deadline)
        if self._keeps_logits:
            self._raw_logits = logits.copy()
        for adjustment in self._adjustments:
            adjustment(logits, self._recent)
        self._few = None if mask is None else mask_logits(logits, mask)

    def choose(
        self, likeliest: int, context: LlamaContext, logits: Any, position: int | None
    ) -> int:
        """Return the next token, and remember it.

        logits: adjusted, at this position of the context's last DecodeResult; None: of one before.
        """
        if self._chain is None:
            token = likeliest
        elif self._few is not None:
            token = draw(self._chain, logits, self._few)
        elif self._narrow is not None:
            token = draw(self._chain, logits, self._narrow(logits))
        elif position is None:
            token = draw(self._chain, logits, numpy.arange(logits.size))
        else:
            token = context.sample(self._chain, position)
        self._recent.append(token)
        return token

    def sampled(self, token: int, count: int) -> SampledToken:
        """Return the log probability of the chosen token, and those of the `count` likeliest."""
        logits = self._raw_logits
        highest = logits.max()
        log_sum = highest + math.log(numpy.exp(logits - highest).sum(dtype=numpy.float64))
        start = max(0, logits.size - count)
        top = numpy.argpartition(logits, start)[start:] if count else numpy.empty(0, numpy.intp)
        top = top[numpy.argsort(-logits[top])]
        likeliest = [(int(one), float(logits[one] - log_sum)) for one in top]
        return SampledToken(token, float(logits[token] - log_sum), likeliest)


def mask_logits(logits: Any, mask: bytearray) -> Any:
    """Set logits [vocabulary] to -inf, in place, but for allowed tokens; return these if few.

    Some of llama.cpp's samplers take the logarithm of a probability, also where it is 0.
    """
    bits = numpy.unpackbits(numpy.frombuffer(mask, numpy.uint8), bitorder="little")
    is_allowed = numpy.zeros(logits.size, bool)
    is_allowed[: bits.size] = bits[: logits.size]
    if numpy.isinf(logits[is_allowed].max(initial=-numpy.inf)):  # NaN is an error
        logits[is_allowed] = 0  # penalties must not leave none
    logits[~is_allowed] = -numpy.inf
    tokens = numpy.flatnonzero(is_allowed)
    return tokens if tokens.size <= FEW else None


def _logit_biases(options: Mapping[str, Any], vocabulary_size: int) -> Iterator[Adjustment]:
    biases = options.get("logit_bias") or {}
    known = [token for token in biases if 0 <= token < vocabulary_size]
    added = numpy.array([biases[token] for token in known], numpy.float32)

    def add(logits: Any, _: Collection[int]) -> None:
        logits[known] += added

    if known:
        yield add


def _penalties(options: Mapping[str, Any]) -> Iterator[Adjustment]:
    """Yield llama.cpp's penalties, which it looks up for every token of the vocabulary."""
    repeat, frequency, presence = (
        numpy.float32(options[f"{name}_penalty"]) for name in ("repeat", "frequency", "presence")
    )

    def penalize(logits: Any, recent: Collection[int]) -> None:
        counted = Counter(recent)
        tokens = numpy.fromiter(counted.keys(), numpy.intp)
        counts = numpy.fromiter(counted.values(), numpy.float32)
        old = logits[tokens]
        repeated = numpy.where(old <= 0, old * repeat, old / repeat)
        logits[tokens] = repeated - (counts * frequency + presence)

    if repeat != 1 or frequency or presence:
        yield penalize


def _narrowing(
    options: Mapping[str, Any], vocabulary_size: int
) -> tuple[Callable[[Any], Any] | None, Mapping[str, Any]]:
    """Return what selects the candidates without a sort, and the options for the chain after it.

    None: llama.cpp finds them in the whole row, where it need not sort it, or soon has, or must for
    mirostat.
    """
    has_top_k = 0 < options["top_k"] < vocabulary_size
    if options["mirostat_mode"] or has_top_k or vocabulary_size <= FEW:
        return None, options
    left = {"top_k": 0, "typical_p": 1.0, "top_p": 1.0}  # which change nothing
    if options["typical_p"] >= 1 and options["top_p"] >= 1:
        return None, {**options, "top_k": 0}
    shares = {name: options[name] for name in ("typical_p", "top_p", "min_p")}
    return partial(candidates, **shares), {**options, **left}


def draw(chain: Any, logits: Any, tokens: Any) -> int:
    """Apply a chain of llama.cpp's samplers to some tokens; return the one that it selects."""
    data = numpy.zeros(tokens.size, numpy.dtype(llama_cpp.llama_token_data))
    data["id"], data["logit"] = tokens, logits[tokens]
    pointer = data.ctypes.data_as(llama_cpp.llama_token_data_p)
    array = llama_cpp.llama_token_data_array(pointer, data.size, -1, False)
    llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
    return int(data["id"][array.selected])


def _sampling(options: Mapping[str, Any], vocabulary_size: int) -> list[Any]:
    """Return the samplers in the order of llama-cpp-python's chain."""
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
) -> list[int | NoToken]:
    """Return each sequence's next token, or the error to end with if its logits are NaN.

    The logits are adjusted in place. Those of a token whose mask has not come are kept.
    """
    failed: dict[int, NoToken] = {}
    deadline = time.monotonic() + MASK_WAIT
    with numpy.errstate(all="ignore"):  # extreme penalties overflow, as in llama.cpp
        for at, sampler in enumerate(samplers):
            try:
                sampler.adjust(result.logits[at], deadline)
            except MaskPendingError as pending:
                failed[at], pending.logits = pending, result.logits[at].copy()
            except AnswerError as error:
                failed[at] = error
        best = result.logits.argmax(-1)  # the first NaN, if there is one
        highest = result.logits[numpy.arange(len(samplers)), best]
        tokens: list[int | NoToken] = [AnswerError(NOT_A_NUMBER)] * len(samplers)
        for at in numpy.flatnonzero(numpy.isfinite(highest)):
            if at in failed:
                continue
            row, position = result.logits[at], result.positions[at]
            tokens[at] = samplers[at].choose(int(best[at]), context, row, position)
    for at, error in failed.items():
        tokens[at] = error
    return tokens
