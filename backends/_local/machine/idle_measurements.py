"""Measure speeds again while no chat is computed.

Figures of the start may have been measured while the machine was busy, or before it became so; they
should not decide for the life of the process.
"""

# The strategy. Some seconds after the last chat, the scheduler's Measurement runs, in pieces. A
# chat that comes meanwhile aborts the piece under way and ends the measurement, which begins anew
# once it is quiet again. If other programs took processors away meanwhile, nothing is decided, and
# it is repeated later, at growing intervals; else after VALID seconds.

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Generator
from typing import Protocol

from kuwa_min.errors import describe

from .timing import Disturbance

logger = logging.getLogger(__name__)

QUIET = 2.0  # seconds without a chat, before something is measured
RETRY, MAX_RETRY = 15.0, 900.0  # seconds after a measurement on a busy machine: the first, the most
VALID = 6 * 3600.0  # seconds, after which a measurement is old


class Measurement(Protocol):
    """What is measured of an engine. For the engine's thread, but for abort()."""

    threads: int  # the most that compute at once meanwhile

    def measure(self) -> Generator[None, None, None]:
        """Measure in short pieces, and keep the durations; yield between them.

        The first yield comes before the first piece: from there on, abort() ends what is computed.
        The state of all chats is as before when this ends, is closed, or raises.
        """

    def decide(self) -> str:
        """Decide by the last durations; return the line of the log about what changes, or ""."""

    def abort(self) -> None:
        """End the piece under way with an exception; from any thread."""


class IdleMeasurements:
    """Runs a Measurement when it is due; for the engine's thread, but for interrupt().

    clock: returns seconds; disturbance: is created with the number of threads before a measurement,
    and true after it if other programs took processors away.
    """

    def __init__(
        self,
        measurement: Measurement | None,
        clock: Callable[[], float] = time.monotonic,
        disturbance: Callable[[int], object] = Disturbance,
    ) -> None:
        self._measurement, self._clock, self._disturbance = measurement, clock, disturbance
        self._lock = threading.Lock()  # of the two flags
        self._is_running = self._is_interrupted = False
        self._due = self._quiet_since = clock()
        self._retry = RETRY

    def begin_quiet(self) -> None:
        """Note that no chat is computed from now on."""
        self._quiet_since = self._clock()

    def seconds_left(self) -> float | None:
        """Return the seconds until run() is due if no chat comes; None for never."""
        if self._measurement is None:
            return None
        left = max(self._due, self._quiet_since + QUIET) - self._clock()
        return max(0.0, left) if left < math.inf else None

    def interrupt(self) -> None:
        """End run() at once, if it runs; from any thread."""
        with self._lock:
            if self._is_running and self._measurement is not None:
                self._is_interrupted = True
                self._measurement.abort()

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Measure, and log what changes by it; end early by interrupt(), or by should_stop()."""
        assert self._measurement is not None
        with self._lock:
            self._is_running, self._is_interrupted = True, False
        disturbance = self._disturbance(self._measurement.threads)
        try:
            is_complete = self._measure(self._measurement, should_stop)
        finally:
            with self._lock:
                self._is_running = False
        if not is_complete:
            self.begin_quiet()
        elif disturbance:
            self._due, self._retry = self._clock() + self._retry, min(2 * self._retry, MAX_RETRY)
            logger.debug("speeds were measured on a busy machine; they will be again")
        else:
            self._due, self._retry = self._clock() + VALID, RETRY
            if change := self._measurement.decide():
                logger.info("%s", change)

    def _measure(self, measurement: Measurement, should_stop: Callable[[], bool]) -> bool:
        """Measure; return false if that was interrupted. After a failure it is never due again."""
        try:
            with contextlib.closing(measurement.measure()) as pieces:
                for _ in pieces:
                    if should_stop() or self._is_interrupted:
                        return False
        except Exception as error:  # noqa: BLE001 - chats do not depend on it
            if not self._is_interrupted:
                logger.info("speeds cannot be measured: %s", describe(error))
                self._due = math.inf
            return False
        return not self._is_interrupted
