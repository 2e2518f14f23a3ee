"""Have one answer from a service of OpenAI's kind: question to text, and what became of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from kuwa_min import sentences

from ._cloud_executor import Question
from ._openai_answer import Answer
from ._openai_client import Client, Reply
from ._openai_dialect import Dialect
from ._openai_events import LONGEST_EVENT, Events, TooLarge
from ._openai_refusals import Problem, understand
from ._refusal import Again, Passing, Refusal, of_failure
from ._transport_errors import ConnectionFailed, Failure

MOST_DIALECTS = 64  # models of which it is known what they take; bots may name any
PATIENCE = 600.0  # seconds without a byte, where nothing else is asked for: as the SDK has it

Count = Callable[[int, int], None]  # tokens of the prompt, tokens of the answer


class Service:
    """One service, and what was learned of its models."""

    def __init__(self, client: Client, defaults: dict[str, Any], *, show_reasoning: bool) -> None:
        """Know the options' defaults: what nobody asked for may be left out."""
        self._client, self._defaults = client, defaults
        self._show_reasoning = show_reasoning
        self._dialects: dict[str, Dialect] = {}

    def stream(self, question: Question, count: Count) -> Iterator[str]:
        """Yield the answer's text and side notes; raises a Refusal."""
        answer = Answer(show_reasoning=self._show_reasoning)
        begun = False
        try:
            with contextlib.closing(self._ask(question)) as reply:
                for text in _texts(reply, answer):
                    begun = True
                    yield text
        except Problem as problem:
            raise understand(problem, question) from None
        except ConnectionFailed as failed:
            if failed.failure is not Failure.CONNECTION or not (begun or answer.ended):
                raise of_failure(failed) from None
        finally:
            count(answer.read, answer.written)
        if rest := answer.finish():
            begun = True
            yield rest
        if not (begun or answer.ended):
            raise _empty("it ended before its first word")
        if note := answer.ending():
            yield question.note(note)

    def _ask(self, question: Question) -> Reply:
        dialect = self._dialect(question.model)
        seconds = question.options.get("timeout") or PATIENCE
        try:
            return self._client.chat(dialect.body(question), question.key, seconds)
        except Problem as problem:
            refusal = understand(problem, question)
            if type(refusal) is Refusal and dialect.learn(problem, question):
                raise Again(refusal.sentence, f"{refusal}; it is asked in other words") from None
            raise refusal from None

    def _dialect(self, model: str) -> Dialect:
        found = self._dialects.get(model)
        if found is None:
            if len(self._dialects) >= MOST_DIALECTS:
                self._dialects.clear()
            found = self._dialects[model] = Dialect(self._defaults)
        return found


def _texts(reply: Reply, answer: Answer) -> Iterator[str]:
    """Yield the text of each read; raises Problem for an error in the answer, and Refusal."""
    read = _whole if reply.is_json else _events
    for events in read(reply, answer):
        text, problem = _take(events, answer)
        if text:
            yield text
        if problem is not None:
            raise problem
    if not (answer.understood or answer.done):
        raise _garbled("the answer holds nothing of the kind that OpenAI's do")


def _garbled(cause: str) -> Refusal:
    return Refusal(sentences.GARBLED, f"garbled: {cause}")


def _empty(cause: str) -> Refusal:
    return Passing(sentences.NO_ANSWER, f"empty: {cause}")


def _take(events: list[bytes], answer: Answer) -> tuple[str, Problem | Refusal | None]:
    """Return the text of events, and the problem that ends it, if there is one."""
    texts = []
    for event in events:
        try:
            texts.append(answer.feed(event))
        except ValueError:
            return "".join(texts), _garbled("an event of the answer is no JSON object")
        if answer.error is not None:
            return "".join(texts), Problem.of_object(answer.error)
    return "".join(texts), None


def _events(reply: Reply, answer: Answer) -> Iterator[list[bytes]]:
    """Yield the events of each read until the last one."""
    events = Events()
    for received in reply:
        try:
            found = events.feed(received)
        except TooLarge as error:
            raise _garbled(str(error)) from None
        yield found
        if events.failed:
            raise Problem.of_object("the service sent an event named error")
        if answer.done:
            return
    yield events.finish()
    if not (answer.seen or events.strange):  # as servers do that fail after their head
        raise _empty("the answer is empty")


def _whole(reply: Reply, _: Answer) -> Iterator[list[bytes]]:
    """Yield the one object that a service sends that does not stream."""
    body = bytearray()
    for received in reply:
        body += received
        if len(body) > LONGEST_EVENT:
            raise _garbled("the answer is too large")
    yield [bytes(body)]
