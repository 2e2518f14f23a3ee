"""Find out at the start whether llama.cpp computes batched sequences as it does single ones.

Compares what it computes with this model on this machine, whatever its version; measures once what
gap filling and copying cost, which speed_tests measures again while no chat is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy

from .batching.context import LlamaContext
from .batching.token_batch import SequenceChunk

PROMPTS = ([1, 2], [6, 5, 4])  # token ids that every vocabulary has; few, as the start waits
PREFIX = 2  # tokens of the second prompt that are computed before its rest
MAX_ERROR = 0.25  # relative to the logits; a 16-bit KV cache and rounding cause less


class Findings(NamedTuple):
    """What examine() found out about a context."""

    fault: str  # why sequences cannot be batched in it, or ""
    gap_fill: int = 0  # slots of a gap that cost less than another ubatch
    copy_seconds: float | None = None  # of a sequence; None: not possible, or wrong


def examine(context: LlamaContext, *, can_copy: bool) -> Findings:
    """Compute two prompts alone, batched and in chunks; leave the context empty.

    can_copy: false where copying a sequence is not to be tried.
    """
    try:
        alone = [_logits_alone(context, prompt) for prompt in PROMPTS]
        error = _distance(_logits_chunked(context), alone[1])
        is_batched = len(context.sequence_lengths) > 1
        if is_batched:
            error = max(error, _distance(_logits_batched(context), numpy.concatenate(alone)))
        if not error <= MAX_ERROR:
            return Findings(f"computed at once they are not what they are alone ({error:.2g})")
        if not is_batched:
            return Findings("")
        copy_seconds = _copy_seconds(context, alone[1]) if can_copy else None
        return Findings("", _gap_fill(context), copy_seconds)
    except MemoryError as error:
        return Findings(f"there is not enough memory to test it: {error}".rstrip(": "))
    except RuntimeError as error:
        return Findings(f"the test of it failed: {error}")
    finally:
        context.empty()


def _distance(found: Any, right: Any) -> float:
    return float(numpy.linalg.norm(found - right) / (numpy.linalg.norm(right) or 1.0))


def _logits_alone(context: LlamaContext, prompt: list[int]) -> Any:
    """Return the logits after a prompt, computed at once in the first slot."""
    context.empty()
    return context.decode([SequenceChunk(0, prompt, True)]).logits.copy()


def _logits_chunked(context: LlamaContext) -> Any:
    """Return those after the second prompt, computed in two chunks with a truncation between."""
    context.empty()
    context.decode([SequenceChunk(0, PROMPTS[1][:PREFIX], False)])
    context.decode([SequenceChunk(0, PROMPTS[0], False)])
    kept = context.truncate(0, PREFIX)
    return context.decode([SequenceChunk(0, PROMPTS[1][kept:], True)]).logits.copy()


def _logits_batched(context: LlamaContext) -> Any:
    """Return those after both prompts, prefilled and decoded batched."""
    context.empty()
    context.decode([SequenceChunk(slot, prompt[:-1], False) for slot, prompt in enumerate(PROMPTS)])
    last = [SequenceChunk(slot, prompt[-1:], True) for slot, prompt in enumerate(PROMPTS)]
    return context.decode(last).logits.copy()


def _copy_seconds(context: LlamaContext, right: Any) -> float | None:
    """Return the seconds that copying a sequence takes; None if the copy is wrong."""
    context.empty()
    context.decode([SequenceChunk(0, PROMPTS[1], False)])
    rest = [SequenceChunk(1, PROMPTS[1][PREFIX:], True)]

    def copy_and_decode() -> Any:
        context.copy(0, 1, PREFIX)
        return context.decode(rest).logits

    if not _distance(copy_and_decode(), right) <= MAX_ERROR:
        return None
    with_copy = _seconds(copy_and_decode)

    def decode() -> None:
        context.truncate(1, PREFIX)
        context.decode(rest)

    return max(0.0, with_copy - _seconds(decode))


def _gap_fill(context: LlamaContext) -> int:
    """Return how many dummy tokens cost less than the ubatch that they save, by one and two."""
    context.empty()
    slots = len(context.sequence_lengths)
    one, two = ([SequenceChunk(slot, [1], True) for slot in range(count)] for count in (1, 2))
    single = _seconds(lambda: context.decode(one))
    another = _seconds(lambda: context.decode(two)) - single
    return slots_to_fill(single, single + another * (slots - 1), slots)


def slots_to_fill(single: float, together: float, slots: int) -> int:
    """Return how many slots of a gap to fill.

    single, together: the seconds of a decode step in one slot, and in all.
    """
    another = max(0.0, together - single) / (slots - 1)
    saved = max(0.0, single - another)
    return slots if another * slots <= saved else int(saved / another)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
