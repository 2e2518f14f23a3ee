"""Measure with how many threads a model computes fastest, in a KV cache of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial

import torch
from transformers import DynamicCache

from backends._local.machine.thread_choice import Timings, change, choose
from backends._local.machine.timing import compare
from backends._local.request import Request
from backends.huggingface.model import TransformersModel

from .threads import TorchThreads, use

PREFILL_TOKENS = 32  # computed at once, as many as a short prompt has
SECONDS = 1.0  # of a comparison; after them no other round begins
TOKEN = 1  # which every vocabulary has


class SpeedTests:
    """Compares numbers of threads on a processor; a Measurement."""

    def __init__(self, model: TransformersModel, threads: TorchThreads) -> None:
        self._model, self._threads = model, threads
        self._timings = Timings({}, {})
        self._request = Request([], {})  # that abort() cancels
        self.threads = max([*threads.chosen, *threads.candidates])

    def measure(self) -> Generator[None, None, None]:
        """Measure in pieces of a forward pass, and keep the durations."""
        self._timings = Timings({}, {})
        self._request = Request([], {})
        yield
        try:
            prefill = yield from self._compare(self._prefill)
            cache = self._new_cache()
            self._forward(cache, PREFILL_TOKENS)
            decode = yield from self._compare(partial(self._forward, cache, 1))
            self._timings = Timings(prefill, decode)
        finally:
            self._threads.use_for_decode()

    def abort(self) -> None:
        """End the forward pass under way with Aborted; from any thread."""
        self._request.cancel()

    def decide(self) -> str:
        """Use what is fastest; return what changes, or ""."""
        before = self._threads.chosen
        self._threads.chosen = choose(self._timings, before)
        return change(self._timings, before, self._threads.chosen)

    def _compare(self, work: Callable[[], object]) -> Generator[None, None, dict[int, float]]:
        """Return the seconds that work takes, by the number of threads."""

        def work_with(count: int) -> None:
            use(count)
            work()

        counts = self._threads.candidates
        return (yield from compare({count: partial(work_with, count) for count in counts}, SECONDS))

    def _prefill(self) -> None:
        self._forward(self._new_cache(), PREFILL_TOKENS)

    def _new_cache(self) -> DynamicCache:
        return DynamicCache(config=self._model.library_model.config)

    @torch.inference_mode()
    def _forward(self, cache: DynamicCache, tokens: int) -> None:
        """Compute tokens behind those that the cache holds."""
        known = cache.get_seq_length()
        positions = torch.arange(known, known + tokens)[None]
        with self._model.aborting_with(self._request):
            self._model.forward(torch.full((1, tokens), TOKEN), positions, None, cache)
