"""Say in the log what of a service's answers is not understood, by its kind and without its words.

What is not understood is not shown, and would be lost in silence otherwise.
"""

from __future__ import annotations

import logging

from .errors import redact
from .json_reader import Event, NotJson

logger = logging.getLogger(__name__)

MOST_NOTED = 5  # kinds in one answer, and fields of an object that are named
MOST_REPORTED = 32  # kinds in the life of the process
LONGEST = 40  # characters of a name or a type that we do not know


class NotUnderstood:
    """Report each kind once; safe for threads, of which two may report the same."""

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def report(self, kinds: list[str]) -> None:
        """Log what is new of an answer's kinds."""
        new = [one for one in kinds if one not in self._reported]
        if new and len(self._reported) < MOST_REPORTED:
            self._reported.update(new)
            logger.warning("an answer held what is not understood: %s", redact("; ".join(new)))


def note(kinds: list[str], kind: str) -> None:
    """Add a kind to those of an answer."""
    if len(kinds) < MOST_NOTED and kind not in kinds:
        kinds.append(kind)


def describe(event: Event) -> str:
    """Return what kind of thing an event is; empty for a ping, which is known to say nothing."""
    data = event.data
    if isinstance(data, dict):
        if "ping" in (event.name, data.get("type")):
            return ""
        kind = f"an object with {', '.join(map(short, [*data][:MOST_NOTED])) or 'nothing'}"
    else:
        kind = "text" if isinstance(data, NotJson) else type(data).__name__
    return f"{kind} in an event named {short(event.name)}" if event.name else kind


def short(words: object) -> str:
    """Return words of a service as they may stand in a line."""
    return "".join(filter(str.isprintable, str(words)))[:LONGEST]
