"""Build the scheduler of a loaded model: batched where the model allows it, else serial."""

from __future__ import annotations

import logging

from backends._local.scheduler import Scheduler, SerialScheduler
from kuwa_min.errors import StartError

from .batching_check import examine
from .generate import Generate
from .model import TransformersModel
from .reproducible import ReproducibleScheduler
from .scheduler import BatchScheduler

logger = logging.getLogger(__name__)


def create_scheduler(model: TransformersModel, slots: int, *, reproducible: bool) -> Scheduler:
    """Return the scheduler for up to `slots` concurrent sequences.

    reproducible: equal requests get equal answers, which generate() alone gives anyway. Raises
    UsageError if generate() refuses an option that only it implements, and StartError if there is
    no memory left to compute with.
    """
    try:
        return _create(model, slots, reproducible=reproducible)
    except Exception as error:
        if not model.is_out_of_memory(error):
            raise
    raise StartError(
        "the model is loaded, and no memory is left to compute with; a smaller --dtype may help"
    )


def _create(model: TransformersModel, slots: int, *, reproducible: bool) -> Scheduler:
    layout = examine(model)
    if not isinstance(layout, str):
        kind = ReproducibleScheduler if reproducible else BatchScheduler
        return kind(model, layout, slots)
    logger.warning("chats are computed one at a time, by generate(): %s", layout)
    generate = Generate(model)
    generate.check_options()
    return SerialScheduler(generate, f"one at a time: {layout}")
