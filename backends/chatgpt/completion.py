"""Stream one answer of a service that speaks OpenAI's protocol: request in, text out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator
from typing import Any

from backends._cloud.errors import (
    RetryableError,
    RetryModified,
    ServiceError,
    from_connection_failure,
)
from backends._cloud.json_reader import Event, JsonReader, UnreadableBody
from backends._cloud.not_understood import NotUnderstood
from backends._cloud.request import CompletionRequest, CountUsage
from backends._http.transport_errors import ConnectionFailed, Failure
from kuwa_min.chat import catalog
from kuwa_min.chat import prompt as prompts
from kuwa_min.chat.chunks import Piece, ThoughtChunk
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.chat.thinking.display import APART, HIDE
from kuwa_min.chat.thinking.formats import wrappers_but
from kuwa_min.chat.thinking.signs import SignsOfLife
from kuwa_min.options.thinking import REASONING_EFFORT, TEMPLATE_KWARGS, THINKING

from .client import Client, StreamedResponse
from .dialect import ModelParameters
from .error_response import ErrorResponse
from .errors import classify, without_quote
from .response import CompletionParser

logger = logging.getLogger(__name__)

MAX_MODELS = 64  # whose parameters are remembered; bots may name any model
READ_TIMEOUT = 600.0  # seconds without a byte, unless an option says otherwise; the SDK's default


class Completions:
    """Send requests to one service; safe for threads. Remembers what its models take."""

    def __init__(self, client: Client, defaults: dict[str, Any]) -> None:
        """Send through `client`; a parameter that has its default may be left out if refused."""
        self._client, self._defaults = client, defaults
        self._parameters: dict[str, ModelParameters] = {}
        self._not_understood = NotUnderstood()
        self.service = ""  # owner of the models that it lists, such as "vllm"

    def stream(
        self, request: CompletionRequest, count_usage: CountUsage
    ) -> Generator[Piece, None, None]:
        """Yield the answer's text, side notes and progress; raises ServiceError."""
        parameters = self._parameters_of(request.model)
        parser = CompletionParser(
            APART if request.separate_thoughts else request.options.get(THINKING.name) or HIDE,
            headless=parameters.headless.get(_asked_of_template(request)),
            wrappers=wrappers_but(prompts.asked(request.messages)),
        )
        has_text = False
        body = parameters.to_json(request, self.service)
        try:
            with contextlib.closing(self._texts(request, body, parser)) as texts:
                for piece in texts:
                    has_text = has_text or isinstance(piece, str)
                    yield piece
        except ErrorResponse as error:
            raise self._refused(error, request, body) from None
        except ConnectionFailed as failed:
            if failed.failure is not Failure.CONNECTION or not (has_text or parser.ended):
                raise from_connection_failure(failed) from None
        finally:
            count_usage(parser.usage)
            self._not_understood.report(parser.not_understood)
        rest = parser.finish()
        if thought := parser.take_thought():
            yield ThoughtChunk(thought)
        if rest:
            has_text = True
            yield rest
        if not (has_text or parser.ended):
            raise _empty("it ended before its first word")
        if parser.is_only_thought and parser.ended:
            yield catalog.ONLY_THOUGHT
        _remember(parameters, _asked_of_template(request), parser)
        if note := parser.finish_note():
            yield SIDE_NOTE.format(note)

    def _texts(
        self, request: CompletionRequest, body: dict[str, Any], parser: CompletionParser
    ) -> Generator[Piece, None, None]:
        """Yield the text of the answer to a body as it is read.

        A server that renders the chat template behind its head cannot say why it fails; asked
        again without streaming it does, or answers.
        """
        timeout = request.options.get("timeout") or READ_TIMEOUT
        whole = {name: value for name, value in body.items() if name != "stream_options"}
        for asked in (body, {**whole, "stream": False}):
            sent = self._client.create_completion(asked, request.key, timeout)
            with contextlib.closing(sent) as response:
                yield from _stream_text(response, parser)
            if parser.events:
                return
        raise _empty("the answer is empty")

    def _refused(
        self, response: ErrorResponse, request: CompletionRequest, sent: dict[str, Any]
    ) -> ServiceError:
        """Classify an error; RetryModified if the request is written otherwise by now."""
        error = classify(response, request)
        if type(error) is ServiceError:
            parameters = self._parameters_of(request.model)
            parameters.adapt(without_quote(response, request), request)
            if parameters.to_json(request, self.service) != sent:
                return RetryModified(error.sentence, f"{error}; it is asked in other words")
        return error

    def _parameters_of(self, model: str) -> ModelParameters:
        known = self._parameters.get(model)
        if known is None:
            if len(self._parameters) >= MAX_MODELS:
                self._parameters.clear()
            known = self._parameters[model] = ModelParameters(self._defaults)
        return known


def _asked_of_template(request: CompletionRequest) -> str:
    return repr([request.options.get(one.name) for one in (TEMPLATE_KWARGS, REASONING_EFFORT)])


def _remember(parameters: ModelParameters, asked: str, parser: CompletionParser) -> None:
    """Remember whether a model's answers begin with a thought that no tag opens."""
    found = parser.headless
    if found and not parameters.headless:
        logger.warning(
            "the service sent what a model thinks as its answer, without the tag that opens it; "
            "from now on it is told apart; an option of the service, such as --reasoning-parser, "
            "does so at once"
        )
    if found is None:
        parameters.headless.pop(asked, None)
        return
    if len(parameters.headless) >= MAX_MODELS:
        parameters.headless.clear()
    parameters.headless[asked] = found


def _stream_text(response: StreamedResponse, parser: CompletionParser) -> Iterator[Piece]:
    """Yield the text of each read, joined; raises ErrorResponse and ServiceError."""
    signs = SignsOfLife()
    for events in _read_events(response, parser):
        text, error = _parse(events, parser)
        thought = parser.take_thought()
        if thought:
            yield ThoughtChunk(thought)
        if text:
            yield text
        elif not thought and parser.is_thinking and signs.is_due:
            yield signs.sign(parser.pieces)
        if error is not None:
            raise error
    if not parser.chunks and (parser.not_understood or (parser.events and not parser.done)):
        kind = response.label or "nothing at all"
        raise _malformed(f"the answer, called {kind}, holds nothing of the kind that OpenAI's do")


def _parse(
    events: list[Event], parser: CompletionParser
) -> tuple[str, ErrorResponse | ServiceError | None]:
    """Return the text of events, and the error that ends it, if there is one."""
    texts = []
    for event in events:
        try:
            texts.append(parser.feed(event))
        except ValueError as error:
            return "".join(texts), _malformed(str(error))
        if parser.error is not None:
            return "".join(texts), ErrorResponse.from_event(parser.error)
    return "".join(texts), None


def _read_events(response: StreamedResponse, parser: CompletionParser) -> Iterator[list[Event]]:
    """Yield the events of each read until the last one."""
    reader = JsonReader()
    try:
        yield from _read(response, reader, parser)
    except UnreadableBody as error:
        raise _malformed(str(error)) from None


def _read(
    response: StreamedResponse, reader: JsonReader, parser: CompletionParser
) -> Iterator[list[Event]]:
    try:
        for received in response:
            yield reader.feed(received)
            if parser.done:
                return
    except ConnectionFailed:
        yield reader.finish()  # a value that is whole but for the end of its line
        raise
    yield reader.finish()


def _malformed(cause: str) -> ServiceError:
    return ServiceError(catalog.GARBLED, f"garbled: {cause}")


def _empty(cause: str) -> ServiceError:
    return RetryableError(catalog.NO_ANSWER, f"empty: {cause}")
