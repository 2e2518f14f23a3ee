"""The routes of /v1, OpenAI's protocol: the same slots, queue and generations as Kuwa's chats.

Each is called on the HTTP worker thread of the connection that asks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from kuwa_min.chat import catalog
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
)

from .generations.factory import GenerationFactory
from .metrics import Metrics
from .openai_api import request as requests
from .openai_api.access import Access
from .openai_api.errors import ApiError
from .openai_api.fields import Fields
from .openai_api.request import ApiRequest
from .openai_api.response import EVENT_STREAM, Answer
from .openai_api.sentences import NOT_OFFERED_HERE, UNKNOWN_MODEL
from .openai_api.stream import StreamEncoder, TextStreamEncoder
from .openai_api.whole import WholeEncoder, WholeTextEncoder
from .slots import Slots

logger = logging.getLogger(__name__)

MODELS = "/v1/models"
USER_FIELD = "x-openwebui-user-id"  # as Open WebUI says it, if it is told to
LONGEST_NAME = 200  # characters of an unknown model's that its error repeats
OWNER = "kuwa-min"  # owned_by of a model
SECRET_FIELDS = ("authorization", "cookie", "proxy-authorization")  # which no executor sees


class Kind(NamedTuple):
    """Chats, or completions of prompts: how they are read and answered."""

    prefix: str  # of ids
    read: Callable[[Fields, str | None, Mapping[str, list[str]], Collection[str]], ApiRequest]
    whole: type[WholeEncoder]
    stream: type[StreamEncoder]


CHATS = Kind("chatcmpl-", requests.read_chat, WholeEncoder, StreamEncoder)
COMPLETIONS = Kind("cmpl-", requests.read_completion, WholeTextEncoder, TextStreamEncoder)


class ApiRoutes:
    """The routes of /v1 of one executor.

    models: the access codes. features: what the backend offers. is_ready: tells whether it is
    loaded.
    """

    def __init__(
        self,
        models: Sequence[str],
        access: Access,
        slots: Slots,
        metrics: Metrics,
        generations: GenerationFactory,
        *,
        features: Callable[[], Collection[str]],
        is_ready: Callable[[], bool],
    ) -> None:
        self._models, self._access = list(models), access
        self._slots, self._metrics, self._generations = slots, metrics, generations
        self._features, self._is_ready, self._created = features, is_ready, int(time.time())
        self._logged: set[str] = set()

    def table(self) -> Routes:
        """Return every route by path and method."""
        chat = CheckedRoute(partial(self.answer, CHATS), self.check)
        completion = CheckedRoute(partial(self.answer, COMPLETIONS), self.check)
        routes: dict[str, dict[str, Route | CheckedRoute]] = {
            "/v1/chat/completions": {"POST": chat},
            "/v1/completions": {"POST": completion},
            MODELS: {"GET": self.list_models},
        }
        for model in self._models:
            for name in {quote(model), quote(model, safe=""), model}:
                routes[f"{MODELS}/{name}"] = {"GET": partial(self.get_model, model)}
        for methods in routes.values():
            methods["OPTIONS"] = self.preflight
        return routes

    def list_models(self, request: Request) -> Response:
        """Return the access codes as models."""
        self._access.check(request)
        models = [self._model(name) for name in self._models]
        return self._respond(request, {"object": "list", "data": models})

    def get_model(self, name: str, request: Request) -> Response:
        """Return one access code as a model."""
        self._access.check(request)
        return self._respond(request, self._model(name))

    def preflight(self, request: Request) -> Response:
        """Answer a browser that asks what pages of other sites may send."""
        self._access.check_peer(request)
        return Response(204, headers=self._access.preflight(request))

    def check(self, request: Request) -> None:
        """Refuse a chat before its body is read; this keeps no place in the queue."""
        with self._logged_refusal():
            self._access.check(request)
            if not self._is_ready():
                raise ApiError(503, catalog.LOADING, code="loading", Retry_After="5")
            self._slots.find_place()

    def answer(self, kind: Kind, request: Request) -> StreamingResponse:
        """Join the queue; the response's producer waits for a slot.

        Raises HTTPError: 400 for what cannot be understood, 404 for an unknown model, 429 if too
        many wait, 503 when the process stops.
        """
        with self._logged_refusal(), self._slots.reserve_place() as place:
            client = self._access.check(request)
            headers = request.head.headers
            asked = kind.read(
                requests.read_object(request.body),
                request.header("accept-language"),
                {name: one for name, one in headers.items() if name not in SECRET_FIELDS},
                features := self._features(),
            )
            _refuse_what_is_not_offered(asked, features)
            self._log_ignored(asked.ignored)
            if asked.model not in self._models:
                raise ApiError(
                    404,
                    UNKNOWN_MODEL.format(asked.model[:LONGEST_NAME]),
                    param="model",
                    code="model_not_found",
                )
            return self._start(place, request, asked, client, self._encoder(kind, request, asked))

    def _start(
        self,
        place: int,
        request: Request,
        asked: ApiRequest,
        client: str,
        encoder: WholeEncoder | StreamEncoder,
    ) -> StreamingResponse:
        user = f"{client} {asked.user or request.header(USER_FIELD) or ''}"
        generation = self._generations.start(
            place, request, asked.chat, encoder, user=user, log_name="a chat of /v1"
        )
        return StreamingResponse(generation.produce, EVENT_STREAM, encoder.begin)

    def _encoder(
        self, kind: Kind, request: Request, asked: ApiRequest
    ) -> WholeEncoder | StreamEncoder:
        answer = Answer.new(asked.model, kind.prefix)
        language = language_of(request.header("accept-language"))
        headers = self._access.headers(request.head)
        if not asked.stream:
            return kind.whole(answer, language, headers, asked.functions)
        return kind.stream(
            answer, language, headers, asked.functions, include_usage=asked.include_usage
        )

    def _log_ignored(self, field: str) -> None:
        """Log once that this executor ignores a field of a request."""
        if field and field not in self._logged:
            self._logged.add(field)
            logger.info("/v1: %s in a request has no effect with this executor", field)

    @contextlib.contextmanager
    def _logged_refusal(self) -> Iterator[None]:
        try:
            yield
        except HTTPError as refusal:
            self._metrics.refused.inc()
            param = f" ({refusal.param})" if isinstance(refusal, ApiError) and refusal.param else ""
            logger.info("/v1: refused a chat: %d%s", refusal.status, param)
            raise

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": OWNER}

    def _respond(self, request: Request, value: object) -> Response:
        body = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        return Response(200, body, JSON, self._access.headers(request.head))


def _refuse_what_is_not_offered(asked: ApiRequest, features: Collection[str]) -> None:
    for feature, param in asked.needs.items():
        if feature not in features:
            raise ApiError(400, NOT_OFFERED_HERE.format(param), param=param)
