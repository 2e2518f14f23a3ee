"""The executor's routes: chat and abort of each endpoint, health, status, metrics.

Each is called on the HTTP worker thread of the connection that asks.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial

from kuwa_min.chat import catalog
from kuwa_min.chat.request_extras import RequestExtras
from kuwa_min.chat.sentence import language_of
from kuwa_min.errors import HTTPError
from kuwa_min.httpd.messages import (
    JSON,
    CheckedRoute,
    Request,
    Response,
    Route,
    Routes,
    StreamingResponse,
    json_message,
)
from kuwa_min.kernel import forms, protocol, wire

from .commands.abort_policy import AbortPolicy
from .generations.factory import GenerationFactory
from .metrics import Metrics
from .slots import Slots

logger = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
HEALTH = "/health"
READY = Response(204)  # of /health once chats are accepted
MONITORING = (HEALTH, "/metrics", "/status")  # allowed under any Host, as a service's name


class ExecutorRoutes:
    """The routes of one executor.

    paths: of the chat endpoints, by index. render_status: makes JSON of a state.
    """

    def __init__(
        self,
        paths: list[str],
        slots: Slots,
        metrics: Metrics,
        generations: GenerationFactory,
        render_status: Callable[[str], bytes],
        *,
        abort_policy: AbortPolicy,
        wire_option: str = wire.AUTO,
    ) -> None:
        self._paths, self._slots, self._metrics = paths, slots, metrics
        self._generations, self._render_status = generations, render_status
        self._abort_policy, self._wire_option = abort_policy, wire_option
        self.ready = False  # set by the main thread once the model is loaded

    def table(self) -> Routes:
        """Return every route by path and method."""
        routes: dict[str, dict[str, Route | CheckedRoute]] = {
            HEALTH: {"GET": self.health},
            "/metrics": {"GET": self.metrics},
            "/status": {"GET": self.status},
        }
        for index, path in enumerate(self._paths):
            chat = CheckedRoute(partial(self.chat, index), partial(self.check, index))
            routes[path] = {"POST": chat}
            routes[f"{path}/abort"] = {"GET": partial(self.abort, index)}
        return routes

    def chat(self, index: int, request: Request) -> StreamingResponse:
        """Acquire the endpoint; the response's producer waits for a slot and streams.

        Raises HTTPError: 400 for a malformed form, 429 if the endpoint is taken, 503 while the
        model loads and when the process stops.
        """
        with self._logged_refusal(index), self._slots.reserve(index):
            return self._start(index, request)

    def check(self, index: int, _: Request) -> None:
        """Refuse a chat before its body is read, as `chat` does.

        This keeps no endpoint: one that is taken by a client which sends slowly would be lost.
        """
        with self._logged_refusal(index):
            self._refuse_if_loading()
            self._slots.check(index)

    @contextlib.contextmanager
    def _logged_refusal(self, index: int) -> Iterator[None]:
        try:
            yield
        except HTTPError as refusal:
            self._metrics.refused.inc()
            logger.info(
                "endpoint %d: refused a chat: %d %s", index, refusal.status, refusal.message
            )
            raise

    def _refuse_if_loading(self) -> None:
        if not self.ready:
            raise HTTPError(503, catalog.LOADING, Retry_After="5")

    def _start(self, index: int, request: Request) -> StreamingResponse:
        form = forms.parse_form(request.body, request.header("content-type") or "")
        chat = protocol.parse_chat_request(
            form, request.header("accept-language"), request.header("x-kuwa-api-base-urls")
        )._replace(headers=request.head.headers)
        room = wire.is_chat_room(form.get("history_id"))
        headers, language = request.head.headers, language_of(request.header("accept-language"))
        encoder = wire.choose_encoder(self._wire_option, headers, chat_room=room, language=language)
        chat.modelfile.extras = RequestExtras(separate_thoughts=encoder.thoughts_apart)
        user, log_name = form.get("user_id", ""), f"endpoint {index}"
        generation = self._generations.start(
            index, request, chat, encoder, user=user, log_name=log_name
        )
        return StreamingResponse(generation.produce, EVENT_STREAM)

    def abort(self, index: int, request: Request) -> Response:
        """Abort the generation at this endpoint, and no other; raises HTTPError with 403."""
        generation = self._slots.at(index)
        self._abort_policy.check(request, generation.peer if generation is not None else None)
        text = "No process to abort"
        if generation is not None:
            generation.abort()
            text = "Aborted"
        return json_message(200, text)._replace(after=self._abort_policy.refresh)

    def health(self, _: Request) -> Response:
        """Return 204 when chats are accepted; raises HTTPError with 503 while the model loads."""
        self._refuse_if_loading()
        return READY

    def status(self, _: Request) -> Response:
        """Return the executor's status as JSON."""
        return Response(200, self.render_status(), JSON)

    def render_status(self) -> bytes:
        """Return the JSON of the executor's status."""
        state = "loading"
        if self.ready:
            state = "stopping" if self._slots.closed else "ready"
        return self._render_status(state)

    def metrics(self, _: Request) -> Response:
        """Return every metric as Prometheus text."""
        return Response(200, self._metrics.render(), PROMETHEUS)
