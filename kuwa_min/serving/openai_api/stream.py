"""Encode answers for /v1 as server-sent events that end in [DONE]. No I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

from kuwa_min.chat.chunks import BaseChunk, TextChunk, ThoughtChunk
from kuwa_min.chat.sentence import Language
from kuwa_min.kernel.wire import AnswerEnd, Put, TimedWrite, dumps, without_lone_surrogates

from .logprobs import TextLogprobs
from .response import (
    CONTENT,
    EVENT_STREAM,
    Answer,
    ApiEncoder,
    Headers,
    finish_reason,
    text_choice,
    usage_of,
)

DONE = b"data: [DONE]\n\n"
PING = b": the answer is being made\n\n"


class StreamEncoder(ApiEncoder):
    """Encodes an answer as events."""

    _kind = "chat.completion.chunk"
    content_type = EVENT_STREAM

    def __init__(
        self,
        answer: Answer,
        language: Language,
        headers: Headers = (),
        functions: frozenset[str] = frozenset(),
        *,
        include_usage: bool = False,
    ) -> None:
        super().__init__(answer, language, headers, functions)
        self._include_usage = include_usage
        mark = "\0"
        template = self._event({CONTENT: mark}).decode()
        before, after = template.split(json.dumps(mark))
        self._before, self._after = before.encode(), after.encode()

    def _first_frame(self) -> bytes:
        return self._event({"role": "assistant", "content": ""})

    def encode_text(self, text: str) -> bytes:
        """Make one event of text."""
        escaped = without_lone_surrogates(encode_basestring_ascii(text))
        return self._before + escaped.encode() + self._after

    def encode_chunks(self, chunks: Sequence[BaseChunk]) -> list[str | bytes]:
        """Make an event of each text; of progress, a comment."""
        parts = self._parts(chunks)
        if parts:
            return [
                self._passed(text) if field == CONTENT else self._event({field: text})
                for field, text in parts
            ]
        held = any(isinstance(one, TextChunk | ThoughtChunk) for one in chunks)
        return [] if held else [PING]

    def encode_end(self, end: AnswerEnd) -> list[TimedWrite]:
        """Return the rest of the text, and the events that end the answer."""
        held, refusal = self._end(end)
        if refusal is not None and not end.has_begun:
            self._refusal = refusal
            return [TimedWrite(refusal.to_json())]
        steps = [TimedWrite(one) for one in self._split(held, is_last=True)]
        if refusal is not None:
            steps.append(TimedWrite(b"data: " + refusal.to_json() + b"\n\n" + DONE))
            return steps
        last = self._event({}, self._reason(finish_reason(end)), **self._side_notes)
        if self._include_usage:
            last += _data(self._chunk(choices=[], usage=usage_of(end)))
        return [*steps, TimedWrite(last + DONE)]

    def wrap(self, put: Put) -> Put:
        """Return what tells calls of functions from text, if any may be called."""
        if self._calls is None:
            return put

        def put_parts(data: str | bytes) -> bool:
            writable = True
            for part in self._split(data) if isinstance(data, str) else [data]:
                writable = put(part)
            return writable

        return put_parts

    def _passed(self, text: str) -> str | bytes:
        """Return text for put(), which looks for calls in it, if any may be made."""
        return self._content(text) if self._calls is None else text

    def _content(self, text: str) -> str | bytes:
        """Return text, as an event if there are log probabilities to send with it."""
        logprobs = self._logprobs.take()
        return text if logprobs is None else self._event({CONTENT: text}, logprobs=logprobs)

    def _split(self, text: str, *, is_last: bool = False) -> list[str | bytes]:
        """Return text, and events of the calls in it."""
        if self._calls is None:
            return [self._content(text)] if text else []
        if not is_last:
            self._keep(text)  # what may be a call
        parts = self._calls.feed(text) + (self._calls.finish() if is_last else [])
        return [
            self._content(one) if isinstance(one, str) else self._event({"tool_calls": [one]})
            for one in parts
        ]

    def _event(
        self,
        delta: dict[str, Any],
        reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        **more: Any,
    ) -> bytes:
        if self._include_usage:
            more = {"usage": None, **more}
        return _data(self._chunk(choices=[self._choice(delta, reason, logprobs)], **more))

    def _choice(
        self, delta: dict[str, Any], reason: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _chunk(self, **more: Any) -> dict[str, Any]:
        return self._answer.object(self._kind, **more)


class TextStreamEncoder(StreamEncoder):
    """Encodes the completion of a prompt as events."""

    _kind = "text_completion"
    _logprobs_class = TextLogprobs

    def _first_frame(self) -> bytes:
        return b""

    def _choice(
        self, delta: dict[str, Any], reason: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        return text_choice(delta.get(CONTENT, ""), reason, logprobs)


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + dumps(value).encode() + b"\n\n"
