"""Stream one answer of Gemini: request in, text out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterator

from backends._cloud.errors import RetryableError, ServiceError, from_connection_failure
from backends._cloud.request import CompletionRequest, CountUsage
from backends._cloud.sentences import BROKEN_OFF
from backends._http.transport_errors import ConnectionFailed
from backends._media import links
from kuwa_min.chat import catalog
from kuwa_min.chat.side_notes import SIDE_NOTE

from . import errors, response
from .client import Client, Content, InvalidOption, create_request, file_part, text_part
from .json_stream import MalformedResponse, TruncatedResponse
from .response import Chunk
from .transport import ErrorResponse

MODEL = re.compile(r"(?:(models|tunedModels)/)?[\w.-]+", re.ASCII)
ROLES = {"user": "user", "assistant": "model"}


def stream(
    client: Client, request: CompletionRequest, count_usage: CountUsage
) -> Generator[str, None, None]:
    """Yield the answer's text and side notes; raises ServiceError."""
    message = _to_protobuf(request)
    completion = _Completion(request)
    try:
        with contextlib.closing(client.stream(message, request.key.text)) as objects:
            for found in objects:
                if text := completion.feed(response.parse(found)):
                    yield text
    except (ErrorResponse, ConnectionFailed, MalformedResponse) as error:
        completion.fail(error)
    finally:
        count_usage(completion.prompt_tokens, completion.completion_tokens)
    yield from completion.finish()


class _Completion:
    """The state of one answer: feed() it chunks, fail() it if it breaks off, then finish() it."""

    def __init__(self, request: CompletionRequest) -> None:
        self._request = request
        self._finish_reason, self._has_text, self._is_truncated = "", False, False
        self.prompt_tokens = self.completion_tokens = 0

    def feed(self, chunk: Chunk) -> str:
        """Return the text of a chunk; raises ServiceError if it says why there is none."""
        request = self._request
        if chunk.prompt_tokens is not None:
            self.prompt_tokens = chunk.prompt_tokens
        if chunk.completion_tokens is not None:
            self.completion_tokens = chunk.completion_tokens
        if chunk.error:
            raise errors.classify_object(chunk.error, request)
        if chunk.block_reason:
            cause = f"the prompt was blocked: {chunk.block_reason}"
            raise ServiceError(catalog.NOT_ALLOWED, cause)
        self._finish_reason = chunk.finish_reason or self._finish_reason
        self._has_text = self._has_text or bool(chunk.text)
        return chunk.text

    def fail(self, error: ErrorResponse | ConnectionFailed | MalformedResponse) -> None:
        """Keep the text of an answer that broke off; raises ServiceError for other failures."""
        found = self._classify(error)
        is_cut_off = found.sentence == catalog.UNREACHABLE  # the connection ended too early
        if not (self._has_text and is_cut_off):
            raise found from None
        self._is_truncated = not self._finish_reason

    def _classify(
        self, error: ErrorResponse | ConnectionFailed | MalformedResponse
    ) -> ServiceError:
        request = self._request
        if isinstance(error, ErrorResponse):
            return errors.classify(error, request)
        if isinstance(error, ConnectionFailed):
            return from_connection_failure(error, errors.FAILURES)
        if isinstance(error, TruncatedResponse):
            return RetryableError(catalog.UNREACHABLE, f"the answer: {error}")
        return ServiceError(catalog.GARBLED, f"the answer: {error}")

    def finish(self) -> Iterator[str]:
        """Yield the side note on how the answer ended; raises ServiceError if it has no text."""
        reason = self._finish_reason
        note = BROKEN_OFF if self._is_truncated else response.finish_note(reason)
        if not note:
            return
        if not self._has_text and reason in response.POLICY_REASONS:
            raise ServiceError(catalog.NOT_ALLOWED, f"the answer was blocked: {reason}")
        yield SIDE_NOTE.format(note)
        if not self._has_text:
            raise ServiceError(catalog.NO_ANSWER, f"no text, and the end is {reason}")


def _to_protobuf(request: CompletionRequest) -> object:
    """Return a request as the SDK sends it; raises ServiceError for what cannot be sent."""
    name = MODEL.fullmatch(request.model)
    if not name:
        raise ServiceError(catalog.NO_MODEL.format(request.model), "that is no name of a model")
    system = [one["content"] for one in request.messages if one["role"] == "system"]
    others = [one for one in request.messages if one["role"] != "system"]
    try:
        return create_request(
            request.model if name[1] else f"models/{request.model}",
            [Content(ROLES[one["role"]], _parts(one["content"], request)) for one in others],
            system="".join(system),
            options=request.options,
        )
    except InvalidOption as error:
        sentence = catalog.NOT_AN_OPTION.format(error)
        raise ServiceError(sentence, f"no value for {error}") from None


def _parts(text: str, request: CompletionRequest) -> list[dict[str, object]]:
    """Return a message's parts: text, and files in their places."""
    parts = [
        text_part(part) if isinstance(part, str) else file_part(part.data, part.media_type)
        for part in links.split(text, request.files)
    ]
    return parts or [text_part("")]
