"""Build the scheduler of a loaded model: a context for all slots where llama.cpp computes it right.

The context is tried at the start: see _llama_check. A model that fails it with several slots is
computed one sequence at a time.
"""

from __future__ import annotations

import logging

from kuwa_min.errors import StartError

from . import _llama_check, _llama_memory
from ._engine import Batch
from ._llama_batch import LlamaBatch
from ._llama_model import LlamaModel

logger = logging.getLogger(__name__)


def create_batch(model: LlamaModel, slots: int) -> Batch:
    """Return the scheduler for up to `slots` concurrent sequences; raises StartError."""
    rows = min(slots, model.most_rows)
    if not model.uses_gpu:  # a graphics card says by itself that its memory is too small
        _llama_memory.check(model.probe_memory(), rows=rows, length=model.context)
    context = model.create_context(rows)
    findings = _llama_check.examine(context, can_copy=not model.is_stateful)
    if findings.fault and rows > 1:
        logger.warning("chats are computed one at a time: %s", findings.fault)
        context = model.create_context(1)
        findings = _llama_check.examine(context, can_copy=False)
    if findings.fault:
        raise StartError(f"{model.name} cannot be used: {findings.fault}")
    context.bridge = 0 if model.is_stateful else findings.bridge
    context.copying = findings.copying
    return LlamaBatch(model, context)
