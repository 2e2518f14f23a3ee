"""How many threads torch computes with on a processor: one number for prefills, one for decodes."""

from __future__ import annotations

import os

import torch

from backends._local.machine import processors
from backends._local.machine.thread_choice import Threads

VARIABLE = "OMP_NUM_THREADS"  # by which operators set it for any program


class TorchThreads:
    """The numbers of threads, for the engine's thread.

    wanted: None for as many as are fastest; `candidates` are the numbers to compare then. `chosen`
    are those in use.
    """

    def __init__(self, wanted: int | None = None) -> None:
        is_given = wanted is not None or bool(os.environ.get(VARIABLE))
        self.candidates = [] if is_given else processors.candidates()
        count = wanted or torch.get_num_threads()  # which knows cores, and no quota
        self.chosen = Threads(count, count)
        if not is_given:
            self.chosen = Threads(*[min(count, processors.default_threads())] * 2)
        self.use_for_decode()

    def use_for_prefill(self) -> None:
        """Compute with the number of threads for prefills from now on."""
        use(self.chosen.prefill)

    def use_for_decode(self) -> None:
        """Compute with the number of threads for decode steps from now on."""
        use(self.chosen.decode)


def use(count: int) -> None:
    """Set the number of threads within one of torch's operations; for the engine's thread."""
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
