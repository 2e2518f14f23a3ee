"""Make of history, Modelfile and system prompt what a model is given, as much as fits."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable
from typing import NamedTuple

from .chunks import LogLevel
from .errors import AnswerError
from .modelfile import Message, Modelfile
from .sentences import NO_INPUT, TOO_LONG, Sentence, own_answers
from .side_notes import NOTE_BEGIN, NOTE_END

SIDE_NOTE = Sentence(f"{NOTE_BEGIN}{{}}{NOTE_END}", f"{NOTE_BEGIN}{{}}{NOTE_END}")
# What an answer of ours ends with, and no model said; 0.4's front end writes a level before it.
OUR_SENTENCES = rf"(?:\n?\[(?:{'|'.join(LogLevel.__members__)})\] )?(?:{own_answers()})\s*\Z"
LONGEST_SENTENCE = 300  # looked for there only: whole texts would take time without bound


class Prompt(NamedTuple):
    """What a model is to read, in the order of reading; `fit` makes messages of it."""

    system: str
    examples: list[Message]  # the Modelfile's messages
    history: list[Message]  # ends with what the person said last


def compose(history: list[Message], modelfile: Modelfile, system_prompt: str = "") -> Prompt:
    """Put a chat and its Modelfile together; raises AnswerError if nothing was asked.

    system_prompt: the operator's, for bots whose author gave none. Leading system messages of the
    history, which API clients send, are added to the system prompt.
    """
    said = join_neighbours(without_our_words(history))
    own = said.pop(0)["content"] if said and said[0]["role"] == "system" else ""
    if not said or said[-1]["role"] != "user":
        raise AnswerError(NO_INPUT)
    text = modelfile.before_prompt + said[-1]["content"] + modelfile.after_prompt
    if not text.strip():
        raise AnswerError(NO_INPUT)
    system = "\n\n".join(filter(None, (modelfile.override_system_prompt or system_prompt, own)))
    return Prompt(system, modelfile.messages, [*said[:-1], {"role": "user", "content": text}])


def without_our_words(history: list[Message]) -> list[Message]:
    """Take side notes and our own error sentences out of the assistant's messages."""
    cleaned = [
        {**message, "content": _model_said(message["content"])}
        if message["role"] == "assistant"
        else message
        for message in history
    ]
    return [one for one in cleaned if one["role"] != "assistant" or one["content"].strip()]


def _model_said(text: str) -> str:
    text = _without_side_notes(text)
    start = max(0, len(text) - LONGEST_SENTENCE)
    return text[:start] + re.sub(OUR_SENTENCES, "", text[start:])


def _without_side_notes(text: str) -> str:
    first, *others = text.split(NOTE_BEGIN)
    kept = [first]
    for other in others:
        _, closed, after = other.partition(NOTE_END)
        if closed:
            kept[-1] = kept[-1].rstrip()
        kept.append(after if closed else NOTE_BEGIN + other)
    return "".join(kept)


def join_neighbours(messages: list[Message]) -> list[Message]:
    """Make one message of neighbours of the same role: many templates insist on turns."""
    return [
        {"role": role, "content": "\n\n".join(one["content"] for one in neighbours)}
        for role, neighbours in itertools.groupby(messages, key=lambda one: one["role"])
    ]


def fold_system(messages: list[Message]) -> list[Message]:
    """Put the system prompt in front of the first message, for templates that refuse the role."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    first, second, *rest = messages
    folded = {**second, "content": f"{first['content']}\n\n{second['content']}"}
    return [folded, *rest]


def fit(prompt: Prompt, *, length: Callable[[list[Message]], int], limit: int) -> list[Message]:
    """Return messages of at most `limit` as `length` counts them; raises AnswerError if none are.

    The oldest exchanges of the chat go first, the Modelfile's examples last; the system prompt and
    the last message always stay.
    """
    starts = [at for at, one in enumerate(prompt.history) if one["role"] == "user"]

    def shortened(times: int) -> list[Message]:
        if times < len(starts):
            return _assemble(prompt, prompt.examples, starts[times])
        return _assemble(prompt, [], starts[-1])

    if length(shortened(0)) <= limit:  # as nearly always
        return shortened(0)
    times = bisect.bisect_left(
        range(len(starts) + 1), True, key=lambda times: length(shortened(times)) <= limit
    )
    if times > len(starts):
        raise AnswerError(TOO_LONG)
    return shortened(times)


def _assemble(prompt: Prompt, examples: list[Message], start: int) -> list[Message]:
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, *join_neighbours([*examples, *prompt.history[start:]])]
