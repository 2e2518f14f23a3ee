"""Leave thoughts out of earlier answers: models are not to read what they, or others, thought."""

from __future__ import annotations

from .formats import BARE, FORMATS, Format
from .splitter import ANSWER, ThoughtSplitter

TAG = FORMATS[0]


def without_thoughts(text: str) -> str:
    """Return an answer without the thoughts before it; "" if it is a thought only."""
    if found := headless(text):
        return text.partition(found.close)[2].lstrip()
    splitter = ThoughtSplitter()
    parts = [*splitter.feed(text), *splitter.finish()]
    return "".join(part for kind, part in parts if kind == ANSWER)


def headless(text: str) -> Format | None:
    """Return how a thought is marked that an answer begins with, if no tag opens it.

    A template has opened it, so that the tag that closes it is a line without another one before
    it; or special tokens were dropped.
    """
    if text.startswith(BARE.open) and text[len(BARE.open) :][:1].strip():
        return BARE if BARE.close in text else None
    thought, close, rest = text.partition(TAG.close)
    line = thought.rpartition("\n")[2] + rest.partition("\n")[0]
    return TAG if close and TAG.open not in thought and not line.strip() else None
