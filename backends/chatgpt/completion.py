"""Stream one answer of a service that speaks OpenAI's protocol: request in, text out."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

from backends._cloud.errors import (
    RetryableError,
    RetryModified,
    ServiceError,
    from_connection_failure,
)
from backends._cloud.request import CompletionRequest, CountUsage
from backends._http.transport_errors import ConnectionFailed, Failure
from kuwa_min.chat import catalog
from kuwa_min.chat.side_notes import SIDE_NOTE

from .client import Client, StreamedResponse
from .dialect import ModelParameters
from .errors import ErrorResponse, classify
from .response import CompletionParser
from .sse import LONGEST_EVENT, EventTooLarge, SSEDecoder

MAX_MODELS = 64  # whose parameters are remembered; bots may name any model
READ_TIMEOUT = 600.0  # seconds without a byte, unless an option says otherwise; the SDK's default


class Completions:
    """Send requests to one service; safe for threads. Remembers what its models take."""

    def __init__(self, client: Client, defaults: dict[str, Any], *, show_reasoning: bool) -> None:
        """Send through `client`; a parameter that has its default may be left out if refused."""
        self._client, self._defaults = client, defaults
        self._show_reasoning = show_reasoning
        self._parameters: dict[str, ModelParameters] = {}

    def stream(
        self, request: CompletionRequest, count_usage: CountUsage
    ) -> Generator[str, None, None]:
        """Yield the answer's text and side notes; raises ServiceError."""
        parser = CompletionParser(show_reasoning=self._show_reasoning)
        has_text = False
        try:
            with contextlib.closing(self._send(request)) as response:
                for text in _stream_text(response, parser):
                    has_text = True
                    yield text
        except ErrorResponse as error:
            raise classify(error, request) from None
        except ConnectionFailed as failed:
            if failed.failure is not Failure.CONNECTION or not (has_text or parser.ended):
                raise from_connection_failure(failed) from None
        finally:
            count_usage(parser.prompt_tokens, parser.completion_tokens)
        if rest := parser.finish():
            has_text = True
            yield rest
        if not (has_text or parser.ended):
            raise _empty("it ended before its first word")
        if note := parser.finish_note():
            yield SIDE_NOTE.format(note)

    def _send(self, request: CompletionRequest) -> StreamedResponse:
        """Send a request; raises RetryModified if it would be written otherwise the next time."""
        parameters = self._parameters_of(request.model)
        timeout = request.options.get("timeout") or READ_TIMEOUT
        try:
            return self._client.create_completion(parameters.to_json(request), request.key, timeout)
        except ErrorResponse as response:
            error = classify(response, request)
            if type(error) is ServiceError and parameters.adapt(response, request):
                cause = f"{error}; it is asked in other words"
                raise RetryModified(error.sentence, cause) from None
            raise error from None

    def _parameters_of(self, model: str) -> ModelParameters:
        known = self._parameters.get(model)
        if known is None:
            if len(self._parameters) >= MAX_MODELS:
                self._parameters.clear()
            known = self._parameters[model] = ModelParameters(self._defaults)
        return known


def _stream_text(response: StreamedResponse, parser: CompletionParser) -> Iterator[str]:
    """Yield the text of each read, joined; raises ErrorResponse and ServiceError."""
    read = _read_json if response.is_json else _read_events
    for events in read(response, parser):
        text, error = _parse(events, parser)
        if text:
            yield text
        if error is not None:
            raise error
    if not (parser.chunks or parser.done):
        raise _malformed("the answer holds nothing of the kind that OpenAI's do")


def _parse(
    events: list[bytes], parser: CompletionParser
) -> tuple[str, ErrorResponse | ServiceError | None]:
    """Return the text of events, and the error that ends it, if there is one."""
    texts = []
    for event in events:
        try:
            texts.append(parser.feed(event))
        except ValueError:
            return "".join(texts), _malformed("an event of the answer is no JSON object")
        if parser.error is not None:
            return "".join(texts), ErrorResponse.from_event(parser.error)
    return "".join(texts), None


def _read_events(response: StreamedResponse, parser: CompletionParser) -> Iterator[list[bytes]]:
    """Yield the events of each read until the last one."""
    decoder = SSEDecoder()
    for received in response:
        try:
            events = decoder.feed(received)
        except EventTooLarge as error:
            raise _malformed(str(error)) from None
        yield events
        if decoder.has_error_event:
            raise ErrorResponse.from_event("the service sent an event named error")
        if parser.done:
            return
    yield decoder.finish()
    if not (parser.events or decoder.has_unknown_lines):  # servers that fail after their head
        raise _empty("the answer is empty")


def _read_json(response: StreamedResponse, _: CompletionParser) -> Iterator[list[bytes]]:
    """Yield the one object of a service that does not stream."""
    body = bytearray()
    for received in response:
        body += received
        if len(body) > LONGEST_EVENT:
            raise _malformed("the answer is too large")
    yield [bytes(body)]


def _malformed(cause: str) -> ServiceError:
    return ServiceError(catalog.GARBLED, f"garbled: {cause}")


def _empty(cause: str) -> ServiceError:
    return RetryableError(catalog.NO_ANSWER, f"empty: {cause}")
