"""Have one answer from Gemini: question to text, and what became of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from kuwa_min import sentences

from . import _gemini_answer, _gemini_client, _gemini_refusal, _links
from ._cloud_executor import Question
from ._gemini_answer import Piece
from ._gemini_client import BadOption, Client, Content
from ._gemini_session import Refused
from ._gemini_stream import BrokeOff, Garbage
from ._refusal import Passing, Refusal, of_failure
from ._transport_errors import ConnectionFailed

MODEL = re.compile(r"(?:(models|tunedModels)/)?[\w.-]+", re.ASCII)
ROLES = {"user": "user", "assistant": "model"}

Count = Callable[[int, int], None]  # tokens of the prompt, tokens of the answer


def stream(client: Client, question: Question, count: Count) -> Iterator[str]:
    """Yield the answer's text and side notes; raises a Refusal."""
    request = _request(question)
    answer = _Answer(question)
    try:
        with contextlib.closing(client.ask(request, question.key.text)) as objects:
            for found in objects:
                if text := answer.take(_gemini_answer.parse(found)):
                    yield text
    except (Refused, ConnectionFailed, Garbage) as error:
        answer.failed(error)
    finally:
        count(answer.read, answer.written)
    yield from answer.finish()


class _Answer:
    """What is known of an answer while it comes."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._end, self._has_text, self._broke_off = "", False, False
        self.read = self.written = 0

    def take(self, piece: Piece) -> str:
        """Return the text of a piece; raises a Refusal if it says why there is none."""
        question = self._question
        self.read = self.read if piece.read is None else piece.read
        self.written = self.written if piece.written is None else piece.written
        if piece.error:
            error = piece.error
            raise _gemini_refusal.explain_error(error, model=question.model, key=question.key.text)
        if piece.block:
            raise Refusal(sentences.NOT_ALLOWED, f"the prompt was blocked: {piece.block}")
        self._end = piece.end or self._end
        self._has_text = self._has_text or bool(piece.text)
        return piece.text

    def failed(self, error: Refused | ConnectionFailed | Garbage) -> None:
        """Take note of an answer that was cut off; raises a Refusal for every other failure."""
        refusal = self._refusal(error)
        if not self._has_text or refusal.sentence != sentences.UNREACHABLE:
            raise refusal from None
        self._broke_off = not self._end

    def _refusal(self, error: Refused | ConnectionFailed | Garbage) -> Refusal:
        question = self._question
        if isinstance(error, Refused):
            return _gemini_refusal.explain(error, model=question.model, key=question.key.text)
        if isinstance(error, ConnectionFailed):
            return of_failure(error, _gemini_refusal.FAILURES)
        if isinstance(error, BrokeOff):
            return Passing(sentences.UNREACHABLE, f"the answer: {error}")
        return Refusal(sentences.GARBLED, f"the answer: {error}")

    def finish(self) -> Iterator[str]:
        """Yield the side note that the end of the answer asks for; raises Refusal if it is bad."""
        if note := sentences.BROKEN_OFF if self._broke_off else _gemini_answer.note(self._end):
            if not self._has_text and self._end in _gemini_answer.RULES:
                raise Refusal(sentences.NOT_ALLOWED, f"the answer was blocked: {self._end}")
            yield self._question.note(note)
            if not self._has_text:
                raise Refusal(sentences.NO_ANSWER, f"no text, and the end is {self._end}")


def _request(question: Question) -> object:
    """Return what the SDK sends; raises a Refusal for what it cannot send."""
    name = MODEL.fullmatch(question.model)
    if not name:
        raise Refusal(sentences.NO_MODEL.format(question.model), "that is no name of a model")
    said = [one for one in question.messages if one["role"] != "system"]
    try:
        return _gemini_client.write(
            question.model if name[1] else f"models/{question.model}",
            [Content(ROLES[one["role"]], _parts(one["content"], question)) for one in said],
            system="".join(one["content"] for one in question.messages if one["role"] == "system"),
            options=question.options,
        )
    except BadOption as error:
        raise Refusal(sentences.NOT_AN_OPTION.format(error), f"no value for {error}") from None


def _parts(text: str, question: Question) -> list[dict[str, object]]:
    """Return a message's parts: text, and files where they stand."""
    parts = [
        _gemini_client.text_part(part)
        if isinstance(part, str)
        else _gemini_client.file_part(part.data, part.media_type)
        for part in _links.split(text, question.files)
    ]
    return parts or [_gemini_client.text_part("")]
