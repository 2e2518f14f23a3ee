"""Find out at the start whether llama.cpp computes several chats as it does one, and what is cheap.

What is compared is what it computes now, with this model on this machine, not what a version says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy

from ._llama_context import LlamaContext, Part

PROMPTS = ([1, 2, 3, 4, 5], [6, 5, 4, 3, 2, 1, 2, 3, 4])  # in every vocabulary
HALF = 4  # tokens of the second prompt, computed before the rest of it
CLOSE = 0.25  # largest error, relative to the logits: memory in 16 bits and rounding cause less
SOON = 0.05  # seconds: what is that fast is timed more than once
TRIES = 5


class Findings(NamedTuple):
    """Why chats cannot share the context, or nothing; and what else was found out.

    bridge: rows in a gap that cost less to compute than a pass of their own for those behind it;
    copying: seconds for copying a row, None if that is not right or not possible.
    """

    fault: str
    bridge: int = 0
    copying: float | None = None


def examine(context: LlamaContext, *, can_copy: bool) -> Findings:
    """Compute two prompts alone, together and in parts; leave the context empty."""
    try:
        alone = [_alone(context, prompt) for prompt in PROMPTS]
        error = _distance(_in_parts(context), alone[1])
        several = len(context.ends) > 1
        if several:
            error = max(error, _distance(_together(context), numpy.concatenate(alone)))
        if not error <= CLOSE:
            return Findings(f"computed at once they are not what they are alone ({error:.2g})")
        if not several:
            return Findings("")
        copying = _copying(context, alone[1]) if can_copy else None
        return Findings("", _bridge(context), copying)
    except RuntimeError as error:
        return Findings(f"the test of it failed: {error}")
    finally:
        context.clear()


def _distance(found: Any, right: Any) -> float:
    return float(numpy.linalg.norm(found - right) / (numpy.linalg.norm(right) or 1.0))


def _alone(context: LlamaContext, prompt: list[int]) -> Any:
    """Return the logits that follow a prompt, computed at once in the first row."""
    context.clear()
    return context.compute([Part(0, prompt, True)]).logits.copy()


def _in_parts(context: LlamaContext) -> Any:
    """Return those of the second prompt, computed after its first tokens, and after a detour."""
    context.clear()
    context.compute([Part(0, PROMPTS[1][:HALF], False)])
    context.compute([Part(0, PROMPTS[0], False)])
    kept = context.forget(0, HALF)
    return context.compute([Part(0, PROMPTS[1][kept:], True)]).logits.copy()


def _together(context: LlamaContext) -> Any:
    """Return the logits that follow the prompts, computed beside each other."""
    context.clear()
    context.compute([Part(row, prompt[:-1], False) for row, prompt in enumerate(PROMPTS)])
    last = [Part(row, prompt[-1:], True) for row, prompt in enumerate(PROMPTS)]
    return context.compute(last).logits.copy()


def _copying(context: LlamaContext, right: Any) -> float | None:
    """Return the seconds that it takes to copy a row, if what is copied is right."""
    context.clear()
    context.compute([Part(0, PROMPTS[1], False)])
    token = [Part(1, PROMPTS[1][HALF:], True)]

    def copy_and_compute() -> Any:
        context.copy(0, 1, HALF)
        return context.compute(token).logits

    if not _distance(copy_and_compute(), right) <= CLOSE:
        return None
    with_copy = _seconds(copy_and_compute)

    def compute() -> None:
        context.forget(1, HALF)
        context.compute(token)

    return max(0.0, with_copy - _seconds(compute))


def _bridge(context: LlamaContext) -> int:
    """Return how many rows may be computed in vain to save a pass."""
    context.clear()
    rows = len(context.ends)
    one, all_rows = ([Part(row, [1], True) for row in range(count)] for count in (1, rows))
    single = _seconds(lambda: _compute_and_forget(context, one))
    another = max(0.0, (_seconds(lambda: _compute_and_forget(context, all_rows)) - single)) / (
        rows - 1
    )
    saved = max(0.0, single - another)
    return rows if another * rows <= saved else int(saved / another)


def _compute_and_forget(context: LlamaContext, parts: list[Part]) -> None:
    context.compute(parts)
    for part in parts:
        context.forget(part.row, 0)


def _seconds(work: Callable[[], object]) -> float:
    """Return the shortest time that something takes; slow machines do it once."""
    found = []
    while not found or (len(found) < TRIES and found[0] < SOON):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)
