"""Read the text of a message's content, whatever JSON it is. No I/O.

Most services send a text. Mistral's Magistral sends lists of parts, in streams too: {"type":
"text", "text": ...}, {"type": "thinking", "thinking": [parts]}, {"type": "reference", ...}; others
send a part alone, or {"value": ...} in place of a part's text. Gemini's content is {"parts": [...]}
with parts {"text": ..., "thought": true}.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

INNER = dict.fromkeys(  # fields of a part that may hold its text, in this order
    ("text", "thinking", "reasoning", "summary", "refusal", "content", "parts", "value")
).keys()
REASONING_TYPES = ("thinking", "reasoning", "redacted_thinking")
SILENT_TYPES = ("reference", "redacted_thinking")  # parts that have nothing to read


class Piece(NamedTuple):
    """A text of the content, or what it holds in place of one."""

    text: str
    is_reasoning: bool = False
    unknown: str = ""  # what a part without text is


def pieces(content: Any) -> list[Piece]:
    """Return the texts in their order; a number counts as its text, null as none."""
    if content is None:
        return []
    return [Piece(content)] if isinstance(content, str) else list(_walk(content))


def _walk(content: Any) -> Iterator[Piece]:
    waiting = [(content, False)]
    while waiting:
        value, is_reasoning = waiting.pop()
        if isinstance(value, str):
            yield Piece(value, is_reasoning)
        elif isinstance(value, list):
            waiting += [(one, is_reasoning) for one in reversed(value)]
        elif isinstance(value, dict):
            kind = value.get("type")
            inner = next((value[name] for name in INNER if value.get(name) is not None), None)
            if inner is not None:
                thought = kind in REASONING_TYPES or value.get("thought") is True
                waiting.append((inner, is_reasoning or thought))
            elif kind not in SILENT_TYPES and not value.keys() & INNER:
                named = f"of the type {kind}" if kind else f"with {', '.join(value) or 'nothing'}"
                yield Piece("", unknown=f"a part {named}")
        elif isinstance(value, bool):
            yield Piece("", unknown="true or false as text")
        elif value is not None:
            yield Piece(str(value), is_reasoning)
