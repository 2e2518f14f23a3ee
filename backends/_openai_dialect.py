"""Say a question in the words that one model of a service takes, learned from what it refuses."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from kuwa_min import prompt as prompts
from kuwa_min.modelfile import Message

from . import _links
from ._attachments import Attachment
from ._cloud_executor import Question
from ._openai_refusals import Problem

EXTRA = "extra_body"  # an option that holds parts of a request which are no options
OURS = ("timeout", EXTRA)  # options that are not for the service
OTHER_NAMES = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
USAGE = {"include_usage": True}  # have the last object say how many tokens it was
NO_SYSTEM = re.compile(r"system (role|message|prompt)|role.{0,20}\bsystem\b", re.IGNORECASE)
UNKNOWN = re.compile(
    r"not (supported|permitted|allowed|support\b)|unsupported|unrecogni[sz]ed|unknown|unexpected",
    re.IGNORECASE,
)
REFUSALS = (400, 422)


class Dialect:
    """What one model takes; safe for threads, for it only ever learns."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        """Know the options that nobody asked for, which may be left out."""
        self._defaults = defaults
        self._left_out: frozenset[str] = frozenset()
        self._renamed: dict[str, str] = {}
        self._folds_system = False

    def body(self, question: Question) -> dict[str, Any]:
        """Return a request."""
        messages = question.messages
        if self._folds_system:
            messages = prompts.fold_system(messages)
        return {
            "model": question.model,
            "messages": [said(one, question.files) for one in messages],
            **self._options(question.options),
        }

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        wanted: dict[str, Any] = dict(options.get(EXTRA) or {})
        if "stream_options" not in self._left_out:
            wanted["stream_options"] = USAGE
        for name, value in options.items():
            if value is not None and name not in OURS and not self._leaves_out(name, value):
                wanted[self._renamed.get(name, name)] = value
        if "top_logprobs" in wanted:
            wanted["logprobs"] = True  # without which services refuse the other
        return wanted

    def _leaves_out(self, name: str, value: Any) -> bool:
        """Tell whether an option is not sent: what somebody asked for always is."""
        return name in self._left_out and value == self._defaults.get(name)

    def learn(self, problem: Problem, question: Question) -> bool:
        """Learn from a refusal; tell whether the same question may be said otherwise now."""
        if problem.status not in REFUSALS:
            return False
        if not self._folds_system and self._has_system(question, problem):
            self._folds_system = True
            return True
        if not UNKNOWN.search(problem.message):
            return False
        named = [name for name in self._options(question.options) if _names(problem, name)]
        for name in sorted(named, key=lambda one: one != problem.param):
            other = OTHER_NAMES.get(name)
            if other and other in problem.message and other not in self._renamed:
                self._renamed = {**self._renamed, name: other}
                return True
            if name == "stream_options" or self._defaults.get(name) == question.options.get(name):
                self._left_out |= {name}
                return True
        return False

    @staticmethod
    def _has_system(question: Question, problem: Problem) -> bool:
        first = question.messages[0]["role"] if question.messages else ""
        return first == "system" and NO_SYSTEM.search(problem.message) is not None


def _names(problem: Problem, option: str) -> bool:
    """Tell whether a refusal is about an option."""
    return problem.param == option or re.search(rf"\b{option}\b", problem.message) is not None


def said(message: Message, files: Mapping[int, Attachment]) -> dict[str, Any]:
    """Return a message as services take it: text alone, or parts with pictures where they stand."""
    parts = list(_links.split(message["content"], files))
    if all(isinstance(part, str) for part in parts):
        return {**message, "content": "".join(map(str, parts))}
    return {**message, "content": [_part(part) for part in parts]}


def _part(part: str | Attachment) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
