"""The events of which an answer consists, whichever server sends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from kuwa_min.errors import KuwaError

TEXT, THOUGHT, NOTE, PROGRESS = "text", "thought", "note", "progress"  # kinds of pieces
STOP, LENGTH, FAILED = "stop", "length", "failed"  # reasons why an answer ended, with OpenAI's


class ServerError(KuwaError):
    """The server cannot be reached, refuses, or fails within an answer."""


class Piece(NamedTuple):
    """A part of an answer; kind: one of those above."""

    kind: str
    text: str


class Usage(NamedTuple):
    """How many tokens were read and written."""

    prompt_tokens: int
    completion_tokens: int


class Finish(NamedTuple):
    """The end of an answer."""

    reason: str


Event = Piece | Usage | Finish


@dataclass
class Answer:
    """What has come of an answer so far; finish_reason is empty while more may come."""

    pieces: dict[str, list[str]] = field(default_factory=dict)  # texts by kind
    usage: Usage | None = None
    finish_reason: str = ""

    def add(self, event: Event) -> None:
        """Add an event."""
        if isinstance(event, Piece):
            self.pieces.setdefault(event.kind, []).append(event.text)
        elif isinstance(event, Usage):
            self.usage = event
        else:
            self.finish_reason = event.reason

    def joined(self, kind: str) -> str:
        """Return the text of all pieces of a kind."""
        return "".join(self.pieces.get(kind, []))

    @property
    def text(self) -> str:
        """Return the answer's text, without the newlines around notes that were taken out."""
        return self.joined(TEXT).strip("\n")
