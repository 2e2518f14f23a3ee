"""Which candidates top_p and typical_p leave: those that llama.cpp's own samplers leave."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")
numpy = pytest.importorskip("numpy", reason="which comes with it")

from backends.llamacpp.candidates import FEW, nucleus, typical  # noqa: E402 - once it is there

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the library's own
]
VOCABULARY = 8000
ROUNDED = 1e-4  # of the probability: llama.cpp adds up a row in 32 bits, token by token
SPREADS = (0.01, 0.5, 3.0, 12.0)  # of logits: nearly even, ... one token has nearly all


def row(spread: float) -> Any:
    """Return the logits of a token, with some that are impossible."""
    logits = numpy.random.default_rng(5).normal(size=VOCABULARY).astype(numpy.float32) * spread
    logits[numpy.arange(0, VOCABULARY, 97)] = -numpy.inf
    return logits.astype(numpy.float32)


def left_by(logits: Any, *samplers: Any) -> Any:
    """Return the tokens that llama.cpp's samplers leave of a row, in their order."""
    data = numpy.zeros(logits.size, numpy.dtype(llama_cpp.llama_token_data))
    data["id"], data["logit"] = numpy.arange(logits.size), logits
    pointer = data.ctypes.data_as(llama_cpp.llama_token_data_p)
    array = llama_cpp.llama_token_data_array(pointer, data.size, -1, False)
    for sampler in samplers:
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
        llama_cpp.llama_sampler_free(sampler)
    return data["id"][: array.size].copy()


def agree(logits: Any, found: Any, expected: Any) -> bool:
    """Tell whether candidates are equal up to tokens at the limit that weigh nearly nothing."""
    assert len(set(found.tolist())) == found.size > 0
    other = numpy.setxor1d(found, expected)
    weights = numpy.exp((logits - logits.max()).astype(numpy.float64))
    return bool(weights[other].sum() <= ROUNDED * weights.sum())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95, 0.9999])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
def test_top_p_leaves_what_llama_cpp_leaves(spread: float, share: float, min_p: float) -> None:
    """Also where min_p takes tokens away afterwards."""
    logits = row(spread)
    top_p, least = (llama_cpp.llama_sampler_init_top_p, llama_cpp.llama_sampler_init_min_p)
    expected = left_by(logits, top_p(share, 1), least(min_p, 1))
    tokens = nucleus(logits, share, min_p)
    found = tokens[left_by(logits[tokens], least(min_p, 1))]
    assert agree(logits, found, expected)
    if found.size <= FEW:  # in the order from which a seed draws the same token
        common = min(found.size, expected.size)
        assert logits[found[:common]].tolist() == logits[expected[:common]].tolist()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("spread", SPREADS[1:])  # before, llama.cpp's surprises are rounding
def test_typical_p_leaves_what_llama_cpp_leaves(spread: float, share: float) -> None:
    """Whose entropy is no number if a token is impossible; ours passes over it."""
    logits = row(spread)
    possible = numpy.flatnonzero(logits - logits.max() > -80)
    sampler = llama_cpp.llama_sampler_init_typical(share, 1)
    expected = possible[left_by(logits[possible], sampler)]
    assert agree(logits, typical(logits, share), expected)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_even_logits_leave_a_share_of_the_tokens(share: float) -> None:
    """Whichever they are: all are in one bin."""
    logits = numpy.full(VOCABULARY, -3, numpy.float32)
    for tokens in (nucleus(logits, share, 0), nucleus(logits, share, 0.05), typical(logits, share)):
        assert tokens.size == pytest.approx(max(1, share * VOCABULARY), abs=1)
        assert numpy.unique(tokens).size == tokens.size
