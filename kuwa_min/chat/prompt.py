"""Compose the prompt of history, Modelfile and system prompt."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from kuwa_min.errors import AnswerError

from .catalog import NO_INPUT, TOO_LONG, answer_pattern
from .chunks import LogLevel
from .modelfile import Message, Modelfile
from .sentence import CHINESE, ENGLISH
from .side_notes import NOTE_BEGIN, NOTE_END
from .thinking.history import without_thoughts

# Our sentence at the end of an answer, which no model wrote; 0.4's front end prefixes a log level.
OUR_SENTENCES = rf"(?:\n?\[(?:{'|'.join(LogLevel.__members__)})\] )?(?:{answer_pattern()})\s*\Z"
REFUSALS = tuple(TOO_LONG.render(language) for language in (ENGLISH, CHINESE))
LONGEST_SENTENCE = 300  # characters at the end that are searched: bounds the time for long texts


class Prompt(NamedTuple):
    """The parts of a prompt, in their order; assemble() makes messages of them."""

    system: str
    examples: list[Message]  # the Modelfile's messages
    history: list[Message]  # ends with the user's last message


def compose(history: list[Message], modelfile: Modelfile, system_prompt: str = "") -> Prompt:
    """Compose a prompt of a chat and its Modelfile; raises AnswerError for an empty question.

    system_prompt: the operator's, for bots without one. Leading system messages of the history,
    which API clients send, are appended to the system prompt.
    """
    messages = merge_consecutive(without_our_sentences(without_refused(history)))
    client = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else ""
    if not messages or messages[-1]["role"] != "user":
        raise AnswerError(NO_INPUT)
    text = modelfile.before_prompt + messages[-1]["content"] + modelfile.after_prompt
    if not text.strip():
        raise AnswerError(NO_INPUT)
    system = "\n\n".join(filter(None, (modelfile.override_system_prompt or system_prompt, client)))
    history = [*messages[:-1], {"role": "user", "content": text}]
    return Prompt(system, modelfile.messages, history)


def without_refused(history: list[Message]) -> list[Message]:
    """Remove questions that were too long for any prompt, with the answers that say so.

    Merged with the next question, they would make that one too long, too, and so all that follow.
    """
    kept: list[Message] = []
    for message in history:
        if message["role"] == "assistant" and message["content"].strip().endswith(REFUSALS):
            while kept and kept[-1]["role"] == "user":
                kept.pop()
        kept.append(message)
    return kept


def without_our_sentences(history: list[Message]) -> list[Message]:
    """Remove side notes, thoughts and our own error sentences from the assistant's messages."""
    cleaned = [
        {**message, "content": _model_text(message["content"])}
        if message["role"] == "assistant"
        else message
        for message in history
    ]
    return [one for one in cleaned if one["role"] != "assistant" or one["content"].strip()]


def _model_text(text: str) -> str:
    text = without_thoughts(_without_side_notes(text))
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


def asked(messages: list[Message]) -> list[str]:
    """Return the texts of messages that no model wrote."""
    return [one["content"] for one in messages if one["role"] != "assistant"]


def merge_consecutive(messages: list[Message]) -> list[Message]:
    """Merge consecutive messages of the same role: many templates require alternating roles."""
    return [
        {"role": role, "content": "\n\n".join(one["content"] for one in group)}
        for role, group in itertools.groupby(messages, key=lambda one: one["role"])
    ]


def fold_system(messages: list[Message]) -> list[Message]:
    """Prepend the system prompt to the first message, for templates that reject the role."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    first, second, *rest = messages
    content = "\n\n".join(filter(None, (first["content"], second["content"])))
    return [{**second, "content": content}, *rest]


def begin_with_user(messages: list[Message]) -> list[Message]:
    """Put an empty message of the user in front of one of the assistant.

    Many templates require that the user begins; a Modelfile's examples may not. Kuwa 0.4 does so.
    """
    if messages and messages[0]["role"] == "assistant":
        return [{"role": "user", "content": ""}, *messages]
    return messages


def assemble(prompt: Prompt, examples: list[Message], start: int) -> list[Message]:
    """Return the messages of a prompt with these examples, and the history from `start` on."""
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return [*system, *merge_consecutive([*examples, *prompt.history[start:]])]
