"""Encode answers for /v1 as one JSON object. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kuwa_min.chat.chunks import BaseChunk
from kuwa_min.chat.sentence import Language
from kuwa_min.kernel.wire import AnswerEnd, Put, TimedWrite, dumps

from .logprobs import TextLogprobs
from .response import (
    CONTENT,
    REASONING,
    REFUSAL,
    Answer,
    ApiEncoder,
    Headers,
    finish_reason,
    text_choice,
    usage_of,
)


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
                self._keep(data)
                self._texts[CONTENT].append(data)
            return True

        return collect

    def encode_text(self, text: str) -> bytes:
        """Return nothing: text is collected."""
        return b""

    def encode_chunks(self, chunks: Sequence[BaseChunk]) -> list[str | bytes]:
        """Collect the texts of chunks; there are no pings."""
        for field, text in self._parts(chunks):
            self._keep(text)
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
        logprobs = self._logprobs.take() if message[CONTENT] else None  # of a call, there are none
        return {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}


class WholeTextEncoder(WholeEncoder):
    """Encodes the completion of a prompt as one object."""

    _kind = "text_completion"
    _logprobs_class = TextLogprobs

    def _choice(self, reason: str) -> dict[str, Any]:
        return text_choice("".join(self._texts[CONTENT]), reason, self._logprobs.take())
