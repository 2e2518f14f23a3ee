"""What answers of /v1 consist of, as one object (`whole`) or as events (`stream`). No I/O.

Facts about clients:
- The first event of a chat has the role; the last but one of all has a finish_reason and no text,
  and with stream_options.include_usage one more has the usage and no choices.
- Thoughts are in reasoning_content, as services for open models have it.
- An object with `error` ends a stream. Lines that begin with a colon are comments: pings.
- Other fields are passed on or ignored: `side_notes` are what chats of Kuwa show beside an answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from kuwa_min.chat import catalog
from kuwa_min.chat.chunks import (
    BaseChunk,
    ExitCodeChunk,
    LogChunk,
    LogprobsChunk,
    RefusalChunk,
    TextChunk,
    ThoughtChunk,
)
from kuwa_min.chat.sentence import Language
from kuwa_min.chat.side_notes import SideNoteGate
from kuwa_min.errors import AnswerError
from kuwa_min.httpd.messages import JSON, Beginning
from kuwa_min.kernel.wire import AnswerEnd

from .errors import Refusal
from .logprobs import ChatLogprobs
from .tool_calls import ToolCallSplitter

EVENT_STREAM = "text/event-stream; charset=utf-8"
CONTENT, REASONING, REFUSAL = "content", "reasoning_content", "refusal"
STOP, LENGTH, TOOL_CALLS = "stop", "length", "tool_calls"
MOST_KEPT = 16 << 20  # characters of an answer that are kept until its end
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

    pings_arrive = errors_apart = thoughts_apart = True
    chat_room = False
    content_type = JSON
    _logprobs_class = ChatLogprobs

    def __init__(
        self,
        answer: Answer,
        language: Language,
        headers: Headers = (),
        functions: frozenset[str] = frozenset(),
    ) -> None:
        self._calls = ToolCallSplitter(functions) if functions else None
        self._functions = len(functions)
        self.gate, self._answer, self._language = SideNoteGate(), answer, language
        self._logprobs = self._logprobs_class()
        self._headers = headers
        self._refusal: Refusal | None = None
        self._kept = 0  # characters

    def begin(self) -> Beginning:
        """Return how the response begins: with the status of an error, if there is nothing else."""
        if self._refusal is not None:
            return Beginning(self._refusal.status, JSON, self._headers)
        return Beginning(200, self.content_type, self._headers, self._first_frame())

    def _first_frame(self) -> bytes:
        return b""

    def _keep(self, text: str) -> None:
        """Count text that is kept until its end; raises AnswerError for too much of it.

        No backpressure slows a backend whose text is kept.
        """
        self._kept += len(text)
        if self._kept > MOST_KEPT:
            raise AnswerError(catalog.NOT_WHOLE)

    def _parts(self, chunks: Sequence[BaseChunk]) -> list[tuple[str, str]]:
        """Return the texts of chunks, each with the field that it belongs to."""
        parts = []
        for chunk in chunks:
            if isinstance(chunk, LogprobsChunk):
                self._logprobs.add(chunk.tokens)
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
        refusal = Refusal(
            sentence, self._language, is_failure=bool(end.failure), functions=self._functions
        )
        return self.gate.release(), refusal

    def _reason(self, reason: str) -> str:
        """Return why an answer ended that may have called functions."""
        has_called = self._calls is not None and self._calls.count
        return TOOL_CALLS if has_called and reason == STOP else reason

    @property
    def _side_notes(self) -> dict[str, Any]:
        return {"side_notes": self.gate.notes} if self.gate.notes else {}


def text_choice(text: str, reason: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    """Return the choice of a completion."""
    return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}


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
