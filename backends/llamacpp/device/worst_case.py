"""Compute the worst case once, so that a graphics card gives its memory before "ready".

CUDA takes pools, cuBLAS's workspace and graphs while it computes, and llama.cpp ends the process
where there is no memory left for them: better at the start than in a chat, hours later.
"""

from __future__ import annotations

import itertools
import logging
import time

from backends.llamacpp.batching.context import LlamaContext
from backends.llamacpp.batching.token_batch import SequenceChunk
from kuwa_min.errors import StartError

logger = logging.getLogger(__name__)

TOKEN = 1  # which every vocabulary has
# Tokens of the first batches, by which a slow card shows. Each twice: what computes a size is
# loaded or compiled when it is needed first, so only the second tells how long the next takes.
FIRST = (1, 1, 8, 8, 64, 64, 512, 512)
SECONDS = 10.0  # that filling a slot may take; a batch that would take longer is not begun


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
    began, pace = time.perf_counter(), 0.0  # seconds a token
    for size in itertools.chain(FIRST, itertools.repeat(context.batch_tokens)):
        done = context.sequence_lengths[0]
        count = min(size, context.capacity - 1 - done)
        started = time.perf_counter()
        if not count:
            return
        if started - began + pace * count > SECONDS:
            logger.info(
                "in %.0f s, memory was tried with %d of a chat's %d tokens: the device is slow",
                *(started - began, done, context.capacity),
            )
            return
        context.decode([SequenceChunk(0, [TOKEN] * count, False)])
        pace = (time.perf_counter() - started) / count
