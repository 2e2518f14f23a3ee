"""The executor's routes: chat and abort for each endpoint, health, status, metrics."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from functools import partial

from . import protocol, wire
from .answer import WAITING_TIMEOUT, Answer
from .chunks import Piece
from .errors import Refused
from .exchange import JSON, Reply, Request, Routes, Streaming, message
from .metrics import Metrics
from .slots import Slots

logger = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
MONITORING = ("/health", "/metrics", "/status")  # asked for under any name, as of a service
LOADING = "The model is still loading. Please try again in a moment."

Compute = Callable[[protocol.Chat], AsyncGenerator[Piece, None]]


class ExecutorRoutes:
    """Answer the Kernel: bytes in, an Answer at an endpoint, text out."""

    def __init__(
        self,
        paths: list[str],
        slots: Slots,
        metrics: Metrics,
        compute: Compute,
        about: Callable[[str], bytes],
        *,
        on_loop: bool = True,
        wire_option: str = wire.AUTO,
        log_content: bool = False,
        waiting_timeout: float = WAITING_TIMEOUT,
    ) -> None:
        self._paths, self._slots, self._metrics = paths, slots, metrics
        self._compute, self._on_loop, self._log_content = compute, on_loop, log_content
        self._about, self._wire_option = about, wire_option
        self._waiting_timeout = waiting_timeout
        self.ready = False

    def table(self) -> Routes:
        """Return every route by path and method."""
        routes: dict[str, dict[str, Callable[[Request], Reply | Streaming]]] = {
            "/health": {"GET": self.health},
            "/metrics": {"GET": self.metrics},
            "/status": {"GET": self.status},
        }
        for index, path in enumerate(self._paths):
            routes[path] = {"POST": partial(self.chat, index)}
            routes[f"{path}/abort"] = {"GET": partial(self.abort, index)}
        return routes

    def chat(self, index: int, request: Request) -> Streaming:
        """Start an answer at this endpoint, on the connection's thread; it waits and streams."""
        try:
            return self._start(index, request)
        except Refused as refusal:
            self._metrics.refused.inc()
            logger.info(
                "endpoint %d: refused a chat: %d %s", index, refusal.status, refusal.message
            )
            raise

    def _start(self, index: int, request: Request) -> Streaming:
        if not self.ready:
            raise Refused(503, LOADING, Retry_After="5")
        form = protocol.parse_form(request.body, request.field("content-type") or "")
        chat = protocol.parse_chat(
            form, request.field("accept-language"), request.field("x-kuwa-api-base-urls")
        )._replace(fields=request.head.fields)
        room = wire.is_room(form.get("history_id"))
        answer = Answer(
            index,
            self._slots,
            self._metrics,
            partial(self._compute, chat),
            wire.choose(self._wire_option, request.head.fields, room=room),
            on_loop=self._on_loop,
            listen=self._listener(index),
            user=form.get("user_id", ""),
            language=request.field("accept-language"),
            waiting_timeout=self._waiting_timeout,
        )
        self._slots.take(index, answer)
        if self._log_content:
            logger.info("endpoint %d: in: %s", index, chat.history)
        return Streaming(answer.produce, EVENT_STREAM)

    def _listener(self, index: int) -> Callable[[str], None] | None:
        """Return what logs an answer's text, if the log may hold it."""
        return partial(logger.info, "endpoint %d: out: %s", index) if self._log_content else None

    def abort(self, index: int, _: Request) -> Reply:
        """Stop the answer at this endpoint, and no other."""
        answer = self._slots.at(index)
        if answer is None:
            return message(200, "No process to abort")
        answer.abort()
        return message(200, "Aborted")

    def health(self, _: Request) -> Reply:
        """Say 204 when chats are welcome, 503 while the model loads."""
        if not self.ready:
            raise Refused(503, LOADING, Retry_After="5")
        return Reply(204)

    def status(self, _: Request) -> Reply:
        """Say as JSON how far the executor is, what it runs and how busy it is."""
        state = "loading"
        if self.ready:
            state = "stopping" if self._slots.closed else "ready"
        return Reply(200, self._about(state), JSON)

    def metrics(self, _: Request) -> Reply:
        """Show every metric as Prometheus text."""
        return Reply(200, self._metrics.render(), PROMETHEUS)
