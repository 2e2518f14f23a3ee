"""Let many chats share one model: one thread owns it, and computes a step for all of them in turn.

Knows no library: a backend gives the batch, which computes.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from kuwa_min.errors import describe

from ._request import SOON, Request

logger = logging.getLogger(__name__)

STEP_SECONDS = 10.0  # for which the end of the process waits for the step that is under way
LONGEST = 0.05  # seconds, and SOON for each chat and for all: tokens that are closer go to the
# chat's thread together, because waking it keeps the engine waiting. Slower models notice nothing.


class Batch(Protocol):
    """What computes several requests, on the engine's thread only."""

    def has_room(self) -> bool:
        """Tell whether another request can begin; true while nothing is computed."""

    def is_busy(self) -> bool:
        """Tell whether there is something to compute."""

    def add(self, request: Request) -> None:
        """Begin with a request at the next step."""

    def step(self) -> None:
        """Compute the next step of all; finish the requests that end with it."""

    def drop(self) -> None:
        """Forget everything: the requests were ended."""

    @property
    def description(self) -> str:
        """Say for /status how requests are computed: "8 at once"."""


class OneByOne:
    """The batch of a model that computes one request at a time: an answer is a single step."""

    def __init__(
        self, compute: Callable[[Request], None], description: str = "one at a time"
    ) -> None:
        self._compute, self.description = compute, description
        self._current: Request | None = None

    def has_room(self) -> bool:
        """Tell whether another request can begin."""
        return self._current is None

    def is_busy(self) -> bool:
        """Tell whether there is something to compute."""
        return self._current is not None

    def add(self, request: Request) -> None:
        """Begin with a request at the next step."""
        self._current = request

    def step(self) -> None:
        """Compute an answer from its first token to its last."""
        assert self._current is not None
        self._compute(self._current)
        self._current.finish()
        self._current = None

    def drop(self) -> None:
        """Forget the request."""
        self._current = None


class Engine:
    """The thread that owns the model."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._begun: list[Request] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        # native code of a thread that Python ends in the middle may abort the process
        atexit.register(self.close)

    @property
    def description(self) -> str:
        """Say for /status how requests are computed."""
        return self._batch.description

    def submit(self, request: Request) -> None:
        """Put a request at the end of the line; never waits."""
        self._inbox.put(request)

    def close(self) -> None:
        """Stop what is computed, and wait for the end of the step that is under way."""
        self._closing = True
        self._inbox.put(None)
        for request in list(self._begun):
            request.cancel()
        self._thread.join(STEP_SECONDS)
        atexit.unregister(self.close)

    def _run(self) -> None:
        while not self._closing:
            try:
                self._admit()
                if self._batch.is_busy():
                    self._batch.step()
            except BaseException as error:  # noqa: BLE001 - it belongs to chats, not to this thread
                self._fail(error)
        self._fail(None)
        while not self._inbox.empty():
            request = self._inbox.get()
            if request is not None:
                request.finish()

    def _admit(self) -> None:
        """Begin with those who wait, as many as there is room for; wait for one if idle."""
        self._begun = [request for request in self._begun if not request.finished]
        for request in self._begun:
            request.soon = min(SOON * len(self._begun), LONGEST)
        while self._batch.has_room():
            try:
                request = self._inbox.get(block=not self._batch.is_busy())
            except queue.Empty:
                return
            if request is None:
                return
            request.start()
            if request.over:
                request.finish()
                continue
            self._begun.append(request)
            self._batch.add(request)

    def _fail(self, error: BaseException | None) -> None:
        """End what is being computed, after a failure that no single request is to blame for."""
        if error is not None:
            logger.debug("the engine failed: %s", describe(error))
        for request in self._begun:
            request.finish(error)  # nothing if it has come to its end
        try:
            self._batch.drop()
        except Exception as failure:  # noqa: BLE001 - others may have better luck
            logger.error("the engine could not clear up: %s", describe(failure))
