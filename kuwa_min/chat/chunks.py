"""The typed pieces of an answer: text, log, progress, exit code and the others of Kuwa 0.4.

Backends and custom executors yield these, or str for plain text; `wire` encodes them. No I/O here.
The names, constructors and JSON are those of Kuwa 0.4's `kuwa.executor.message`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

RFC3339 = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)"


def is_rfc3339(text: str) -> bool:
    """Tell whether text is a timestamp of RFC 3339."""
    return re.fullmatch(RFC3339, text) is not None


class BaseChunk:
    """One chunk of an answer; custom executors may define subclasses.

    cost: the chunk's part in the answer's length, for `usage` and `len()`; None: calculate_cost().
    """

    def __init__(self, cost: int | None = None) -> None:
        self.cost = cost

    def __jsonencode__(self) -> dict[str, Any]:
        """Return the chunk's JSON object in `delta`."""
        raise NotImplementedError(f"{type(self).__name__} lacks __jsonencode__")

    def calculate_cost(self) -> int:
        """Return the cost of a chunk that was created without one."""
        return 0

    def __len__(self) -> int:
        return self.calculate_cost() if self.cost is None else self.cost

    def __bool__(self) -> bool:
        """Be true for every cost: 0 is no empty chunk."""
        return True


class TextChunk(BaseChunk):
    """Text of the answer; a yielded str is converted to one."""

    def __init__(
        self, value: str, annotations: list[Any] | None = None, cost: int | None = None
    ) -> None:
        super().__init__(cost)
        self.value = value
        self.annotations = [] if annotations is None else annotations

    def __jsonencode__(self) -> dict[str, Any]:
        """Return type, value and annotations."""
        return {"type": "text", "text": {"value": self.value, "annotations": self.annotations}}

    def calculate_cost(self) -> int:
        """Count the characters."""
        return len(self.value)


class TokenLogprob(NamedTuple):
    """A token of an answer: its bytes, its log probability, and the likeliest in its place.

    alternatives: bytes and log probability of each, the likeliest first.
    """

    data: bytes
    logprob: float
    alternatives: Sequence[tuple[bytes, float]] = ()


class LogprobsChunk(TextChunk):
    """Text with the log probabilities of its tokens, for clients of /v1; to Kuwa it is text."""

    def __init__(self, value: str, tokens: Sequence[TokenLogprob]) -> None:
        super().__init__(value)
        self.tokens = tokens


class ThoughtChunk(BaseChunk):
    """What the model thinks before it answers, for clients that take it apart; not Kuwa's."""

    def __init__(self, text: str, cost: int | None = None) -> None:
        super().__init__(cost)
        self.text = text

    def __jsonencode__(self) -> dict[str, Any]:
        """Return the text."""
        return {"type": "thought", "thought": {"text": self.text}}


class ImageURLChunk(BaseChunk):
    """The URL of an image; the front end of 0.4 does not show it."""

    def __init__(self, image_url: str, cost: int | None = None) -> None:
        super().__init__(cost)
        self.image_url = image_url

    def __jsonencode__(self) -> dict[str, Any]:
        """Return the bare URL, as Kuwa 0.4 does."""
        return {"type": "image_url", "image_url": self.image_url}


class AudioURLChunk(BaseChunk):
    """The URL of an audio file; the front end of 0.4 does not show it."""

    def __init__(self, audio_url: str, cost: int | None = None) -> None:
        super().__init__(cost)
        self.audio_url = audio_url

    def __jsonencode__(self) -> dict[str, Any]:
        """Return the bare URL, as Kuwa 0.4 does."""
        return {"type": "audio_url", "audio_url": self.audio_url}


class LogLevel(Enum):
    """The severities of syslog."""

    EMERGENCY = 0
    ALERT = 1
    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7

    def __str__(self) -> str:
        return self.name


class LogChunk(BaseChunk):
    """A log message; the front end of 0.4 appends it to the answer as "[LEVEL] text"."""

    def __init__(
        self,
        text: str,
        level: LogLevel = LogLevel.INFO,
        timestamp: str | None = None,
        cost: int | None = None,
    ) -> None:
        super().__init__(cost)
        self.text, self.level = text, level
        if timestamp is None or not is_rfc3339(timestamp):
            from datetime import datetime, timezone

            timestamp = datetime.now(timezone.utc).isoformat()
        self.timestamp = timestamp

    def __jsonencode__(self) -> dict[str, Any]:
        """Return text, level by name, and timestamp."""
        log = {"text": self.text, "level": str(self.level), "timestamp": self.timestamp}
        return {"type": "log", "log": log}


class ProgressChunk(BaseChunk):
    """The progress of a computation; resets the front end's timeout and is not shown."""

    def __init__(
        self,
        position: int,
        total: int,
        desc: str | None = None,
        postfix: str | None = None,
        cost: int | None = None,
    ) -> None:
        super().__init__(cost)
        self.position, self.total, self.desc, self.postfix = position, total, desc, postfix

    def __jsonencode__(self) -> dict[str, Any]:
        """Return position, total and both labels."""
        return {
            "type": "progress",
            "progress": {
                "position": self.position,
                "total": self.total,
                "desc": self.desc,
                "postfix": self.postfix,
            },
        }


class RefusalChunk(BaseChunk):
    """The reason why the model refuses to answer; the front end of 0.4 does not show it."""

    def __init__(self, text: str, cost: int | None = None) -> None:
        super().__init__(cost)
        self.text = text

    def __jsonencode__(self) -> dict[str, Any]:
        """Return the text."""
        return {"type": "refusal", "refusal": {"text": self.text}}


class ExitCodeChunk(BaseChunk):
    """How the answer ended; the last one of an answer counts, 0 without one."""

    OK = COMPLETE = 0
    INCOMPLETE = 1
    FAILURE = 1024

    def __init__(self, exit_code: int, cost: int | None = None) -> None:
        super().__init__(cost)
        self.exit_code = exit_code

    def __jsonencode__(self) -> dict[str, Any]:
        """Return the code."""
        return {"type": "exit_code", "exit_code": self.exit_code}


# What llm_compute may yield: text, a chunk, or a list of chunks and texts that are sent together.
Piece: TypeAlias = str | BaseChunk | list[Any]
