"""Stream one answer of Gemini: request in, text out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterator

from backends._cloud.errors import (
    RetryableError,
    RetryModified,
    ServiceError,
    from_connection_failure,
    redact,
)
from backends._cloud.json_reader import Event
from backends._cloud.not_understood import NotUnderstood, note
from backends._cloud.request import AnswerUsage, CompletionRequest, CountUsage
from backends._cloud.sentences import BROKEN_OFF, CUT_BY_LENGTH
from backends._http.transport_errors import ConnectionFailed
from backends._media import links
from kuwa_min.chat import catalog
from kuwa_min.chat import prompt as prompts
from kuwa_min.chat.chunks import Piece, ThoughtChunk
from kuwa_min.chat.side_notes import SIDE_NOTE

from . import errors, response
from .client import Client, Content, InvalidOption, create_request, file_part, text_part
from .response import Chunk
from .transport import ErrorResponse, MalformedResponse, TruncatedResponse

MODEL = re.compile(r"(?:(models|tunedModels)/)?[\w.-]+", re.ASCII)
ROLES = {"user": "user", "assistant": "model"}


class Completions:
    """Send requests to one service; safe for threads. Remembers what its models take."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._not_understood = NotUnderstood()
        self._without_system: frozenset[str] = frozenset()  # models that refuse a system prompt

    def stream(
        self, request: CompletionRequest, count_usage: CountUsage
    ) -> Generator[Piece, None, None]:
        """Yield the answer's text, thoughts and side notes; raises ServiceError."""
        folds_system = request.model in self._without_system
        try:
            yield from self._stream(request, count_usage, folds_system=folds_system)
        except errors.SystemRefused as error:
            if folds_system or request.messages[0]["role"] != "system":
                raise
            self._without_system |= {request.model}
            cause = f"{error}; it is asked in other words"
            raise RetryModified(error.sentence, cause) from None

    def _stream(
        self, request: CompletionRequest, count_usage: CountUsage, *, folds_system: bool
    ) -> Generator[Piece, None, None]:
        message = _to_protobuf(request, folds_system=folds_system)
        completion = _Completion(request)
        try:
            events = self._client.stream(message, request.key.text, completion.note_kind)
            with contextlib.closing(events):
                for event in events:
                    text = completion.feed(event)
                    if completion.thought:
                        yield ThoughtChunk(completion.thought)
                    if text:
                        yield text
        except (ErrorResponse, ConnectionFailed, MalformedResponse) as error:
            completion.fail(error)
        finally:
            count_usage(completion.usage)
            self._not_understood.report(completion.not_understood)
        yield from completion.finish()


class _Completion:
    """The state of one answer: feed() it chunks, fail() it if it breaks off, then finish() it."""

    def __init__(self, request: CompletionRequest) -> None:
        self._request = request
        self._finish_reason, self._has_text, self._is_truncated = "", False, False
        self._kind = ""  # of the body, as its head names it
        self.thought = ""  # of the last event, if thoughts are wanted
        self.not_understood: list[str] = []
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0

    @property
    def usage(self) -> AnswerUsage:
        """Return the usage that the service has reported so far."""
        is_cut = response.finish_note(self._finish_reason) == CUT_BY_LENGTH
        return AnswerUsage(
            self.prompt_tokens, self.completion_tokens, self.cached_tokens, is_cut=is_cut
        )

    def note_kind(self, kind: str) -> None:
        """Keep what the head says that the body is, for the log."""
        self._kind = kind

    def feed(self, event: Event) -> str:
        """Return the text of an event; raises ServiceError if it says why there is none."""
        if event.is_done:
            return ""
        if event.is_damaged:
            raise MalformedResponse("an object of it is no JSON")
        chunk = response.parse(event)
        for kind in chunk.unknown:
            note(self.not_understood, kind)
        return self._feed_chunk(chunk)

    def _feed_chunk(self, chunk: Chunk) -> str:
        request = self._request
        self.thought = chunk.thought if request.separate_thoughts else ""
        if chunk.prompt_tokens is not None:
            self.prompt_tokens = chunk.prompt_tokens
        if chunk.cached_tokens is not None:
            self.cached_tokens = chunk.cached_tokens
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
        return ServiceError(catalog.GARBLED, redact(f"the answer ({self._kind}): {error}"))

    def finish(self) -> Iterator[str]:
        """Yield the side note on how the answer ended; raises ServiceError if it has no text."""
        reason = self._finish_reason
        ending = BROKEN_OFF if self._is_truncated else response.finish_note(reason)
        if not ending:
            if self.not_understood and not self._has_text:
                cause = f"garbled: the answer ({self._kind}) holds nothing of Gemini's"
                raise ServiceError(catalog.GARBLED, redact(cause))
            return
        if not self._has_text and reason in response.POLICY_REASONS:
            raise ServiceError(catalog.NOT_ALLOWED, f"the answer was blocked: {reason}")
        yield SIDE_NOTE.format(ending)
        if not self._has_text:
            raise ServiceError(catalog.NO_ANSWER, f"no text, and the end is {reason}")


def _to_protobuf(request: CompletionRequest, *, folds_system: bool) -> object:
    """Return a request as the SDK sends it; raises ServiceError for what cannot be sent."""
    name = MODEL.fullmatch(request.model)
    if not name:
        raise ServiceError(catalog.NO_MODEL.format(request.model), "that is no name of a model")
    messages = prompts.fold_system(request.messages) if folds_system else request.messages
    system = [one["content"] for one in messages if one["role"] == "system"]
    others = [one for one in messages if one["role"] != "system"]
    try:
        return create_request(
            request.model if name[1] else f"models/{request.model}",
            [Content(ROLES[one["role"]], _parts(one["content"], request)) for one in others],
            system="".join(system),
            options=request.options,
            constraint=request.constraint,
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
