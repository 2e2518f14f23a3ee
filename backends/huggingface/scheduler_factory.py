"""Build the scheduler of a loaded model: batched where the model allows it, else serial."""

from __future__ import annotations

import logging

from backends._local.prompt_cache.settings import CacheSettings
from backends._local.scheduler import Scheduler, SerialScheduler
from kuwa_min.errors import StartError

from .batching.attention_mask import AttentionLayout
from .batching_check import examine, max_error
from .decoding.cuda_graphs import CudaGraphs
from .decoding.fixed_step import Graphs, fixed_step_error
from .device.errors import first_line
from .device.speed_tests import SpeedTests
from .device.threads import TorchThreads
from .generate import Generate
from .model import TransformersModel
from .paged.self_test import paged_layout
from .reproducible import ReproducibleScheduler
from .scheduler import BatchScheduler

logger = logging.getLogger(__name__)


def create_scheduler(
    model: TransformersModel,
    slots: int,
    settings: CacheSettings,
    *,
    reproducible: bool,
    paged_attention: bool,
    cuda_graphs: bool,
    threads: int | None,
) -> Scheduler:
    """Return the scheduler for up to `slots` concurrent sequences.

    reproducible: equal requests get equal answers, which generate() alone gives anyway.
    paged_attention, cuda_graphs: compute attention over pages, replay decode steps, on a GPU;
    threads: that compute on a processor, None for as many as are fastest.
    Raises UsageError if generate() refuses an option that only it implements, and StartError if
    there is no memory left to compute with.
    """
    torch_threads = TorchThreads(threads)
    try:
        layout = examine(model)
        if isinstance(layout, str):
            settings.note_unused("where generate() computes")
            return _create_serial(model, layout)
        if reproducible:
            parked = settings.create(files=())  # which parks nothing
            return ReproducibleScheduler(model, layout, slots, parked)
        layout = paged_layout(model, layout) if paged_attention else layout
        graphs = graphs_for(model, layout) if cuda_graphs else None
        parked = settings.create(files=model.files(), **model.state_facts())
        scheduler = BatchScheduler(model, layout, slots, parked, graphs, torch_threads)
        if model.device.type == "cpu" and len(torch_threads.candidates) > 1:
            scheduler.measurement = SpeedTests(model, torch_threads)
        return scheduler
    except Exception as error:
        if not model.is_out_of_memory(error):
            raise
    raise StartError(
        "the model is loaded, and no memory is left to compute with; a smaller --dtype may help"
    )


def _create_serial(model: TransformersModel, reason: str) -> Scheduler:
    logger.warning("chats are computed one at a time, by generate(): %s", reason)
    generate = Generate(model)
    generate.check_options()
    return SerialScheduler(generate, f"one at a time: {reason}")


def graphs_for(model: TransformersModel, layout: AttentionLayout) -> Graphs | None:
    """Return what records decode steps on the model's GPU; None without one, or if replays differ.

    A model that lies on several devices has none. Raises DeviceLost.
    """
    if not model.is_on_one_gpu:
        return None
    try:
        graphs = CudaGraphs(model.device)
        error = fixed_step_error(model, layout, graphs)
    except Exception as failure:  # noqa: BLE001 - usual steps do not depend on it
        model.check_device(failure)
        reason = first_line(failure)
    else:
        if error <= max_error(model.library_model.dtype):
            return graphs
        reason = f"a replayed step differs (error {error:.2g})"
    logger.warning("CUDA graphs are not used, decoding is slower: %s", reason)
    return None
