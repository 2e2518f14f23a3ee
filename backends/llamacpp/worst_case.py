"""Compute the worst case once, so that a graphics card gives its memory before "ready".

CUDA takes pools, cuBLAS's workspace and graphs while it computes, and llama.cpp ends the process
where there is no memory left for them: better at the start than in a chat, hours later.
"""

from __future__ import annotations

import logging
import time

from kuwa_min.errors import StartError

from .context import LlamaContext, SequenceChunk

logger = logging.getLogger(__name__)

TOKEN = 1  # which every vocabulary has
FIRST, GROWTH = 64, 8  # tokens of the first batch, by which a slow card shows; of each next one
SECONDS = 10.0  # after which a slow card stops filling the slot


def compute(context: LlamaContext) -> None:
    """Fill a slot with full batches, then decode in all slots; leave the context empty.

    Raises StartError if there is not enough memory.
    """
    try:
        context.clear()
        _fill(context)
        slots = range(len(context.sequence_lengths))
        context.decode([SequenceChunk(slot, [TOKEN], True) for slot in slots])
    except (MemoryError, RuntimeError) as error:
        raise StartError(
            f"the longest chats cannot be computed: {str(error) or 'not enough memory'}; lower "
            "--context_window, --concurrent_req_limit or --ngl"
        ) from None
    finally:
        context.clear()


def _fill(context: LlamaContext) -> None:
    """Compute all but one of the first slot's tokens; fewer if that would take long."""
    started, size = time.perf_counter(), FIRST
    while room := context.capacity - 1 - context.sequence_lengths[0]:
        count, done = min(size, room, context.batch_tokens), context.sequence_lengths[0]
        seconds = time.perf_counter() - started
        if done and seconds * (done + count) / done > SECONDS:
            logger.info("a slow card: its memory was tried with %d tokens of a chat only", done)
            return
        context.decode([SequenceChunk(0, [TOKEN] * count, False)])
        size = min(size * GROWTH, context.batch_tokens)
