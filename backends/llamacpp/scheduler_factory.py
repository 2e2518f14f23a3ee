"""Build the scheduler of a loaded model: batched where llama.cpp computes batches right."""

from __future__ import annotations

import logging

from backends._local.machine import processors
from backends._local.machine.free_memory import free_bytes
from backends._local.prompt_cache.settings import CacheSettings
from backends._local.scheduler import Scheduler
from kuwa_min.errors import StartError

from . import batching_check, bindings
from .batching.context import LlamaContext
from .device import context_size, devices, kv_memory, kv_tensors, worst_case
from .device.speed_tests import SpeedTests
from .model import LlamaModel
from .reproducible import ReproducibleScheduler
from .scheduler import BatchScheduler

logger = logging.getLogger(__name__)


def create_scheduler(
    model: LlamaModel, slots: int, settings: CacheSettings, *, reproducible: bool
) -> Scheduler:
    """Return the scheduler for up to `slots` concurrent sequences; raises StartError.

    A model that fails the check with several slots gets a context with one. reproducible: equal
    requests get equal answers.
    """
    slots = min(slots, model.max_slots)
    log = model.log_of_context()
    if model.wants_longest:
        model.context_length = _longest_context(model, slots, log)
    length = model.context_length
    kv_memory.check(
        log, slots=slots, length=length, uses_gpu=model.uses_gpu, mapped=model.mapped_bytes
    )
    kv_tensors.check(log, bindings.device_takes, slots=slots, length=length)
    context = model.create_context(slots)
    findings = batching_check.examine(context, can_copy=not model.is_recurrent)
    if findings.fault and slots > 1:
        logger.warning("chats are computed one at a time: %s", findings.fault)
        del context  # its memory, too
        context = model.create_context(1)
        findings = batching_check.examine(context, can_copy=False)
    if findings.fault:
        raise StartError(f"{model.name} cannot be used: {findings.fault}")
    if model.uses_gpu:
        context.use_adapters(model.adapters.all)
        worst_case.compute(context)
    logger.info("%s %s", model.name, model.placement())
    context.gap_fill = 0 if model.is_recurrent else findings.gap_fill
    context.copy_seconds = findings.copy_seconds
    pictures = model.picture_encoder.max_bytes if model.picture_encoder else 0
    cache = settings.create(
        files=model.files(), taken=model.mapped_bytes + pictures, **model.state_facts()
    )
    cache.attach(context)
    if reproducible:
        return ReproducibleScheduler(model, context, cache)
    scheduler = BatchScheduler(model, context, cache)
    scheduler.measurement = _speed_tests(model, context)
    return scheduler


def _longest_context(model: LlamaModel, slots: int, log: list[str]) -> int:
    """Return the length in tokens of the longest slots that fit; log: of the smallest context.

    Raises StartError.
    """
    shortest, longer = context_size.LENGTHS
    needed = context_size.demands(log, model.log_of_context(longer), (shortest, longer))

    def room(device: str) -> float:
        machine = device == context_size.MACHINE
        free = free_bytes() if machine else devices.free_bytes(device)
        return context_size.room_of(device, free=free, mapped=model.mapped_bytes)

    def takes(length: int) -> bool:
        try:
            kv_tensors.check(log, bindings.device_takes, slots=slots, length=length)
        except StartError:
            return False
        return True

    return context_size.choose(needed, room, takes, slots=slots, trained=model.trained_length)


def _speed_tests(model: LlamaModel, context: LlamaContext) -> SpeedTests:
    """Return what is measured again while no chat is computed."""
    counts = processors.candidates() if model.can_choose_threads else []
    can_truncate = not model.is_recurrent
    return SpeedTests(context, counts, can_truncate=can_truncate, uses_gpu=model.uses_gpu)
