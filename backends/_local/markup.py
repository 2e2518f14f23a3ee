"""Keep the markup of special tokens out of what a model reads as its own earlier answers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from os.path import commonprefix

from kuwa_min.chat.modelfile import Message


class MarkupFilter:
    """Removes the text of special tokens from the assistant's messages.

    Answers do not show special tokens, but a model may spell one out with ordinary tokens. In the
    next prompt it would be the special token itself: the end of a turn in the midst of a message.

    texts: of the special tokens. Those that may be words, such as ChatGLM's "sop", stay.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        marks = [*filter(_is_markup, texts)]
        self._pattern = re.compile(_any_of(marks)) if marks else None

    def apply(self, history: list[Message]) -> list[Message]:
        """Return the history without markup in the assistant's messages."""
        pattern = self._pattern
        if pattern is None:
            return history
        return [
            {**one, "content": _without(pattern, one["content"])}
            if one["role"] == "assistant"
            else one
            for one in history
        ]


def _without(pattern: re.Pattern[str], text: str) -> str:
    """Return the text without markup, also without what the text around a mark makes then."""
    return pattern.sub(" ", pattern.sub("", text))


def _any_of(texts: Iterable[str]) -> str:
    """Return a regular expression for the longest of these texts, branching at their prefixes.

    Gemma has 6,000 special tokens: to try one after the other at each "<" takes a second.
    """
    branches, may_end = [], False
    for first, group in itertools.groupby(sorted(texts), key=lambda text: text[:1]):
        same = [*group]
        start = commonprefix(same)  # noqa: RUF071 - of texts, not of paths
        may_end = may_end or not first
        if first:
            branches.append(re.escape(start) + _any_of(text[len(start) :] for text in same))
    return f"(?:{'|'.join(branches)}){'?' * may_end}" if branches else ""


def _is_markup(text: str) -> bool:
    """Tell whether a text cannot be mistaken for words or punctuation."""
    ends = f"{text[:1]}{text[-1:]}"
    return len(text) > 2 and not any(end.isalnum() or end.isspace() for end in ends)
