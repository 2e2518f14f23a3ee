"""The candidates of a draw: the tokens that top_p or typical_p leave of a row of logits.

llama.cpp sorts the row as soon as they are more than 256. Here the tokens are counted in bins by
their distance from the likeliest one, and only the bin in which the limit falls is sorted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

BINS = 4096
MIN_SPAN, MAX_SPAN = 1e-30, 64.0  # of the bins; what is farther weighs nothing: e ** -64
FEW = 1024  # candidates that are sorted as a whole, in the order in which llama.cpp draws from them
ROUNDING = 1e-3  # llama.cpp's own min_p decides about what is nearer to its limit


def candidates(logits: Any, typical_p: float, top_p: float, min_p: float) -> Any:
    """Return the tokens that the options leave, but for those that min_p will remove.

    logits: float32 [vocabulary], the largest of them finite.
    """
    if typical_p >= 1:
        return nucleus(logits, top_p, min_p)
    tokens = typical(logits, typical_p)
    return tokens if top_p >= 1 else tokens[nucleus(logits[tokens], top_p, min_p)]


def nucleus(logits: Any, top_p: float, min_p: float) -> Any:
    """Return the tokens that top_p leaves, but for those that min_p will remove."""
    distances = logits.max() - logits
    weights = numpy.exp(-distances)
    target = top_p * weights.sum(dtype=numpy.float64)
    if min_p <= 0:
        return _smallest(-logits, weights, target)
    near = numpy.flatnonzero(distances <= ROUNDING - math.log(min_p))
    return near[_smallest(-logits[near], weights[near], target)]


def typical(logits: Any, typical_p: float) -> Any:
    """Return the tokens that typical_p leaves: those whose surprise is nearest to the entropy."""
    distances = logits.max() - logits
    weights = numpy.exp(-distances)
    total = weights.sum(dtype=numpy.float64)
    # -log p is the distance and a constant, which the difference from the entropy does not contain
    possible = weights > 0  # 0 x infinity is no number
    mean = numpy.dot(weights[possible], distances[possible]) / total
    return _smallest(abs(distances - mean), weights, typical_p * total)


def _smallest(keys: Any, weights: Any, target: float) -> Any:
    """Return the places of the smallest keys: as few as weigh the target together.

    All places if the target is not reached. In ascending order of keys if they are FEW or less.
    """
    if keys.size <= FEW:
        return _sorted(keys, weights, target)
    above = keys - keys.min()
    scale = numpy.float32(BINS / min(max(above.max(), MIN_SPAN), MAX_SPAN))
    bins = numpy.minimum(above * scale, BINS - 1).astype(numpy.intp)
    reached = numpy.bincount(bins, weights, BINS).cumsum()
    last = int(numpy.searchsorted(reached[:-1], target))
    inner, edge = numpy.flatnonzero(bins < last), numpy.flatnonzero(bins == last)
    if inner.size + edge.size <= FEW:
        places = numpy.concatenate([inner, edge])
        return places[_sorted(keys[places], weights[places], target)]
    missing = target - (reached[last - 1] if last else 0)
    return numpy.concatenate([inner, edge[_sorted(keys[edge], weights[edge], missing)]])


def _sorted(keys: Any, weights: Any, target: float) -> Any:
    """Return the places of the smallest keys in ascending order, as few as weigh the target."""
    order = numpy.argsort(keys, kind="stable")
    reached = weights[order].cumsum(dtype=numpy.float64)
    return order[: int(numpy.searchsorted(reached, target)) + 1]
