"""The protocol of schedulers, which the engine drives, and the one for a request at a time.

Knows no library: huggingface and llamacpp have batched schedulers of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .machine.idle_measurements import Measurement
from .request import Request


class Scheduler(Protocol):
    """Decides what each step computes, and computes it; called on the engine's thread only.

    The engine calls add() only after has_free_slot() was true, and step() only while has_work().
    A request is finished by the step that samples its last token. An exception of step() belongs
    to no single request: the engine then finishes all that are running and calls reset().
    """

    @property
    def description(self) -> str:
        """Return how requests are computed, for /status: "8 at once"."""

    @property
    def measurement(self) -> Measurement | None:
        """Return what to measure while no request is computed; None for nothing."""

    def has_free_slot(self) -> bool:
        """Tell whether another request can be added; true while none is running."""

    def has_work(self) -> bool:
        """Tell whether a step has something to compute."""

    def add(self, request: Request) -> None:
        """Add a request, which the next step begins with."""

    def step(self) -> None:
        """Run one step: prefill a part of what waits, then one decode step for all others."""

    def reset(self) -> None:
        """Drop all requests, which are finished, and what the KV cache holds."""

    def close(self) -> None:
        """Keep what is to be kept for the next start; called once, before the last reset()."""


class SerialScheduler:
    """Computes one request at a time: a step is a whole completion.

    generate: generates the completion of a request, emitting its text; need not finish() it.
    """

    def __init__(
        self, generate: Callable[[Request], None], description: str = "one at a time"
    ) -> None:
        self._generate, self.description = generate, description
        self.measurement: Measurement | None = None
        self._current: Request | None = None

    def has_free_slot(self) -> bool:
        """Tell whether no request is running."""
        return self._current is None

    def has_work(self) -> bool:
        """Tell whether a request is running."""
        return self._current is not None

    def add(self, request: Request) -> None:
        """Add the request that the next step computes."""
        self._current = request

    def step(self) -> None:
        """Generate the whole completion."""
        assert self._current is not None
        self._generate(self._current)
        self._current.finish()
        self._current = None

    def reset(self) -> None:
        """Drop the request."""
        self._current = None

    def close(self) -> None:
        """Nothing is kept."""
