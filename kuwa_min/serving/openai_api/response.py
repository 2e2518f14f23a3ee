"""Encode answers for /v1: one JSON object, or server-sent events that end in [DONE]. No I/O.

Facts about clients:
- The first event of a chat has the role; the last but one of all has a finish_reason and no text,
  and with stream_options.include_usage one more has the usage and no choices.
- Thoughts are in reasoning_content, as services for open models have it.
- An object with `error` ends a stream. Lines that begin with a colon are comments: pings.
- Other fields are passed on or ignored: `side_notes` are what chats of Kuwa show beside an answer.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

from kuwa_min.chat.chunks import (
    BaseChunk,
    ExitCodeChunk,
    LogChunk,
    RefusalChunk,
    TextChunk,
    ThoughtChunk,
)
from kuwa_min.chat.sentence import Language
from kuwa_min.chat.side_notes import SideNoteGate
from kuwa_min.httpd.messages import JSON, Beginning
from kuwa_min.kernel.wire import AnswerEnd, Put, TimedWrite, dumps, without_lone_surrogates

from .errors import Refusal
from .tool_calls import ToolCallSplitter

EVENT_STREAM = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
PING = b": the answer is being made\n\n"
CONTENT, REASONING, REFUSAL = "content", "reasoning_content", "refusal"
STOP, LENGTH, TOOL_CALLS = "stop", "length", "tool_calls"
Headers = tuple[tuple[str, str], ...]


class Answer(NamedTuple):
    """What all objects of one answer say."""

    id: str
    created: int
    model: str

    @classmethod
    def new(cls, model: str, prefix: str) -> Answer:
        """Return one with an id of its own, made now."""
        return cls(prefix + os.urandom(12).hex(), int(time.time()), model)

    def object(self, kind: str, **more: Any) -> dict[str, Any]:
        """Return an object of this answer."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            **more,
        }


class ApiEncoder:
    """What the encoders of both kinds have in common."""

    pings_arrive = errors_apart = True
    chat_room = False
    content_type = JSON

    def __init__(
        self,
        answer: Answer,
        language: Language,
        headers: Headers = (),
        functions: frozenset[str] = frozenset(),
    ) -> None:
        self._calls = ToolCallSplitter(functions) if functions else None
        self.gate, self._answer, self._language = SideNoteGate(), answer, language
        self._headers, self._refusal = headers, None

    _refusal: Refusal | None

    def begin(self) -> Beginning:
        """Return how the response begins: with the status of an error, if there is nothing else."""
        if self._refusal is not None:
            return Beginning(self._refusal.status, JSON, self._headers)
        return Beginning(200, self.content_type, self._headers, self._first_frame())

    def _first_frame(self) -> bytes:
        return b""

    def _parts(self, chunks: Sequence[BaseChunk]) -> list[tuple[str, str]]:
        """Return the texts of chunks, each with the field that it belongs to."""
        parts = []
        for chunk in chunks:
            if isinstance(chunk, TextChunk):
                parts.append((CONTENT, self.gate.feed(chunk.value)))
            elif isinstance(chunk, ThoughtChunk):
                parts.append((REASONING, chunk.text))
            elif isinstance(chunk, RefusalChunk):
                parts.append((REFUSAL, chunk.text))
            elif isinstance(chunk, LogChunk):
                self.gate.add(f"[{chunk.level}] {chunk.text}")
        return [(field, text) for field, text in parts if text]

    def _end(self, end: AnswerEnd) -> tuple[str, Refusal | None]:
        """Return the rest of the text, and the error that ends the answer."""
        self.gate.close()
        sentence = end.failure or end.declined
        if not sentence:
            return self.gate.release(), None
        refusal = Refusal(sentence, self._language, is_failure=bool(end.failure))
        return self.gate.release(), refusal

    def _reason(self, reason: str) -> str:
        """Return why an answer ended that may have called functions."""
        has_called = self._calls is not None and self._calls.count
        return TOOL_CALLS if has_called and reason == STOP else reason

    @property
    def _side_notes(self) -> dict[str, list[str]]:
        return {"side_notes": self.gate.notes} if self.gate.notes else {}


class WholeEncoder(ApiEncoder):
    """Encodes an answer as one object."""

    _kind = "chat.completion"

    def __init__(
        self,
        answer: Answer,
        language: Language,
        headers: Headers = (),
        functions: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(answer, language, headers, functions)
        self._texts: dict[str, list[str]] = {CONTENT: [], REASONING: [], REFUSAL: []}

    def wrap(self, put: Put) -> Put:
        """Return what collects the text; nothing is sent before the end."""

        def collect(data: str | bytes) -> bool:
            if isinstance(data, str):
                self._texts[CONTENT].append(data)
            return True

        return collect

    def encode_text(self, text: str) -> bytes:
        """Return nothing: text is collected."""
        return b""

    def encode_chunks(self, chunks: Sequence[BaseChunk]) -> list[str | bytes]:
        """Collect the texts of chunks; there are no pings."""
        for field, text in self._parts(chunks):
            self._texts[field].append(text)
        return []

    def encode_end(self, end: AnswerEnd) -> list[TimedWrite]:
        """Return the object: the answer, or the error in place of it."""
        held, self._refusal = self._end(end)
        if self._refusal is not None:
            return [TimedWrite(self._refusal.to_json())]
        self._texts[CONTENT].append(held)
        whole = self._answer.object(
            self._kind,
            choices=[self._choice(finish_reason(end))],
            usage=usage_of(end),
            **self._side_notes,
        )
        return [TimedWrite(dumps(whole).encode())]

    def _choice(self, reason: str) -> dict[str, Any]:
        texts = {field: "".join(parts) for field, parts in self._texts.items()}
        message: dict[str, Any] = {"role": "assistant", "content": texts[CONTENT]}
        if texts[REASONING]:
            message[REASONING] = texts[REASONING]
        message[REFUSAL] = texts[REFUSAL] or None
        if self._calls is not None:
            parts = self._calls.feed(texts[CONTENT]) + self._calls.finish()
            message[CONTENT] = "".join(one for one in parts if isinstance(one, str)).strip() or None
            calls = [one for one in parts if not isinstance(one, str)]
            message |= {"tool_calls": calls} if calls else {}
            reason = self._reason(reason)
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}


class WholeTextEncoder(WholeEncoder):
    """Encodes the completion of a prompt as one object."""

    _kind = "text_completion"

    def _choice(self, reason: str) -> dict[str, Any]:
        return text_choice("".join(self._texts[CONTENT]), reason)


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
                text if field == CONTENT else self._event({field: text}) for field, text in parts
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

    def _split(self, text: str, *, is_last: bool = False) -> list[str | bytes]:
        """Return text, and events of the calls in it."""
        if self._calls is None:
            return [text] if text else []
        parts = self._calls.feed(text) + (self._calls.finish() if is_last else [])
        return [
            one if isinstance(one, str) else self._event({"tool_calls": [one]}) for one in parts
        ]

    def _event(self, delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        if self._include_usage:
            more = {"usage": None, **more}
        return _data(self._chunk(choices=[self._choice(delta, reason)], **more))

    def _choice(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}

    def _chunk(self, **more: Any) -> dict[str, Any]:
        return self._answer.object(self._kind, **more)


class TextStreamEncoder(StreamEncoder):
    """Encodes the completion of a prompt as events."""

    _kind = "text_completion"

    def _first_frame(self) -> bytes:
        return b""

    def _choice(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return text_choice(delta.get(CONTENT, ""), reason)


def text_choice(text: str, reason: str | None) -> dict[str, Any]:
    """Return the choice of a completion."""
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + dumps(value).encode() + b"\n\n"


def finish_reason(end: AnswerEnd) -> str:
    """Return why an answer ended; an executor's exit code 1 says that it is not whole."""
    if end.exit_code == ExitCodeChunk.INCOMPLETE and end.finish_reason == STOP:
        return LENGTH
    return end.finish_reason


def usage_of(end: AnswerEnd) -> dict[str, Any]:
    """Return the token counts of an answer."""
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": end.cached_tokens},
    }
