"""Create the generations of a process; the routes decide which chats become one."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Protocol

from kuwa_min.chat.chunks import Piece
from kuwa_min.httpd.messages import Request
from kuwa_min.kernel.protocol import ChatRequest
from kuwa_min.kernel.wire import AnswerEncoder
from kuwa_min.serving.event_loop import EventLoop
from kuwa_min.serving.metrics import Metrics

from .generation import Generation, SlotTable

logger = logging.getLogger(__name__)

Compute = Callable[[ChatRequest], AsyncGenerator[Piece, None]]


class EndpointTable(SlotTable, Protocol):
    """Assigns endpoints to generations; implemented by `slots.Slots`."""

    def acquire(self, index: int, generation: Generation) -> None:
        """Give an endpoint to a generation, which joins the queue."""


class GenerationFactory:
    """Creates the generations of a process; called on HTTP worker threads.

    compute: calls the backend. waiting_timeout: seconds that a chat waits for a slot. loop: runs
    the generators; None: each runs on its HTTP worker thread. log_content: whether the log may hold
    what users write and models answer.
    """

    def __init__(
        self,
        slots: EndpointTable,
        metrics: Metrics,
        compute: Compute,
        *,
        waiting_timeout: float,
        loop: EventLoop | None = None,
        log_content: bool = False,
    ) -> None:
        self._slots, self._metrics, self._compute = slots, metrics, compute
        self._waiting_timeout, self._loop = waiting_timeout, loop
        self._log_content = log_content

    def start(
        self,
        index: int,
        request: Request,
        chat: ChatRequest,
        encoder: AnswerEncoder,
        *,
        user: str,
        log_name: str,
    ) -> Generation:
        """Give a reserved endpoint to a new generation, which joins the queue, and return it.

        Its produce() is the response's producer. user: the key of the fair queue; log_name: its
        name in the log. Raises HTTPError with 503 while the process stops.
        """
        log_piece = partial(logger.info, "%s: out: %s", log_name) if self._log_content else None
        generation = Generation(
            index,
            self._slots,
            self._metrics,
            partial(self._compute, chat),
            encoder,
            waiting_timeout=self._waiting_timeout,
            loop=self._loop,
            log_content=log_piece,
            user=user,
            peer=request.peer,
            language=request.header("accept-language"),
            log_name=log_name,
        )
        self._slots.acquire(index, generation)
        if self._log_content:
            logger.info("%s: in: %s", log_name, chat.history)
        return generation
