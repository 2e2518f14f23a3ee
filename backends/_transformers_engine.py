"""Build the scheduler of a loaded model: batched where the model allows it, else one by one."""

from __future__ import annotations

import logging

from ._engine import Batch, OneByOne
from ._transformers_batch import RowsBatch
from ._transformers_check import examine
from ._transformers_generate import Generate
from ._transformers_model import TransformersModel

logger = logging.getLogger(__name__)


def create_batch(model: TransformersModel, slots: int) -> Batch:
    """Return the scheduler for up to `slots` concurrent sequences.

    Raises UsageError if generate() refuses an option that only it knows.
    """
    layout = examine(model)
    if not isinstance(layout, str):
        return RowsBatch(model, layout, slots)
    logger.warning("chats are computed one at a time, by generate(): %s", layout)
    generate = Generate(model)
    generate.check_options()
    return OneByOne(generate, f"one at a time: {layout}")
