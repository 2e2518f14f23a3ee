"""Leave thoughts out of earlier answers: models are not to read what they, or others, thought."""

from __future__ import annotations

from .formats import FORMATS
from .splitter import ANSWER, ThoughtSplitter

OPEN, CLOSE = FORMATS[0].open, FORMATS[0].close
# How gpt-oss's answers begin, and how their thoughts end, without the special tokens around them.
BARE_OPEN, BARE_CLOSE = "analysis", "assistantfinal"


def without_thoughts(text: str) -> str:
    """Return an answer without the thoughts before it; "" if it is a thought only."""
    if start := headless_end(text):
        return text[start:].lstrip()
    splitter = ThoughtSplitter()
    parts = [*splitter.feed(text), *splitter.finish()]
    return "".join(part for kind, part in parts if kind == ANSWER)


def headless_end(text: str) -> int:
    """Return where a thought ends whose beginning does not stand in the answer; 0: there is none.

    A template has opened it, so that the tag that closes it is a line without another one before
    it; or special tokens were dropped.
    """
    if text.startswith(BARE_OPEN) and text[len(BARE_OPEN) :][:1].strip():
        return text.find(BARE_CLOSE) + len(BARE_CLOSE) if BARE_CLOSE in text else 0
    thought, close, rest = text.partition(CLOSE)
    line = thought.rpartition("\n")[2] + rest.partition("\n")[0]
    return len(thought + close) if close and OPEN not in thought and not line.strip() else 0
