"""Find out at the start whether llama.cpp computes batched sequences as it does single ones.

Compares what it computes with this model on this machine, whatever its version; measures once what
gap filling and copying cost, which speed_tests measures again while no chat is computed.
"""

from __future__ import annotations

import time
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
        logits, single = _decode_chunked(context)
        error = _distance(logits, alone[1])
        slots = len(context.sequence_lengths)
        is_batched = slots > 1
        if is_batched:
            logits, two = _decode_batched(context)
            error = max(error, _distance(logits, numpy.concatenate(alone)))
        if not error <= MAX_ERROR:
            return Findings(f"computed at once they are not what they are alone ({error:.2g})")
        if not is_batched:
            return Findings("")
        gap_fill = slots_to_fill(single, single + (two - single) * (slots - 1), slots)
        copy_seconds = _copy_seconds(context, alone[1], single) if can_copy else None
        return Findings("", gap_fill, copy_seconds)
    except MemoryError as error:
        return Findings(f"there is not enough memory to test it: {error}".rstrip(": "))
    except RuntimeError as error:
        return Findings(f"the test of it failed: {error}")
    finally:
        context.empty()


def _distance(found: Any, right: Any) -> float:
    return float(numpy.linalg.norm(found - right) / (numpy.linalg.norm(right) or 1.0))


def _timed_decode(context: LlamaContext, chunks: list[SequenceChunk]) -> tuple[Any, float]:
    """Return a copy of the logits of a decode step, and its seconds."""
    started = time.perf_counter()
    logits = context.decode(chunks).logits
    return logits.copy(), time.perf_counter() - started


def _logits_alone(context: LlamaContext, prompt: list[int]) -> Any:
    """Return the logits after a prompt, computed at once in the first slot."""
    context.empty()
    return context.decode([SequenceChunk(0, prompt, True)]).logits.copy()


def _decode_chunked(context: LlamaContext) -> tuple[Any, float]:
    """Compute the second prompt in two chunks with a truncation between.

    Returns its logits, and the seconds of the last decode step.
    """
    context.empty()
    context.decode([SequenceChunk(0, PROMPTS[1][:PREFIX], False)])
    context.decode([SequenceChunk(0, PROMPTS[0], False)])
    kept = context.truncate(0, PREFIX)
    return _timed_decode(context, [SequenceChunk(0, PROMPTS[1][kept:], True)])


def _decode_batched(context: LlamaContext) -> tuple[Any, float]:
    """Prefill and decode both prompts batched; return their logits, and a decode step's seconds."""
    context.empty()
    context.decode([SequenceChunk(slot, prompt[:-1], False) for slot, prompt in enumerate(PROMPTS)])
    last = [SequenceChunk(slot, prompt[-1:], True) for slot, prompt in enumerate(PROMPTS)]
    return _timed_decode(context, last)


def _copy_seconds(context: LlamaContext, right: Any, single: float) -> float | None:
    """Return the seconds that copying a sequence takes; None if the copy is wrong.

    The second prompt is in the second slot. right: the logits after it; single: the seconds of a
    decode step in one slot.
    """
    started = time.perf_counter()
    context.copy(1, 0, PREFIX)
    logits = context.decode([SequenceChunk(0, PROMPTS[1][PREFIX:], True)]).logits
    seconds = time.perf_counter() - started
    return max(0.0, seconds - single) if _distance(logits, right) <= MAX_ERROR else None


def slots_to_fill(single: float, together: float, slots: int) -> int:
    """Return how many slots of a gap to fill.

    single, together: the seconds of a decode step in one slot, and in all.
    """
    another = max(0.0, together - single) / (slots - 1)
    saved = max(0.0, single - another)
    return slots if another * slots <= saved else int(saved / another)
