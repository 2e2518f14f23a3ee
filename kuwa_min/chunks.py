"""The typed pieces of an answer: text, log, progress, exit code and the others of Kuwa 0.4.

Backends and custom executors yield these, or str for plain text; `wire` encodes them. No I/O here.
The names, constructors and JSON are those of Kuwa 0.4's `kuwa.executor.message`.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, TypeAlias

RFC3339 = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)"


def is_rfc3339(text: str) -> bool:
    """Tell whether text is a timestamp of RFC 3339."""
    return re.fullmatch(RFC3339, text) is not None


class BaseChunk:
    """One piece of an answer; custom executors may define subclasses.

    cost: what the piece adds to the answer's length in `usage` and `len()`; None: calculate_cost().
    """

    def __init__(self, cost: int | None = None) -> None:
        self.cost = cost

    def __jsonencode__(self) -> dict[str, Any]:
        """Return the JSON object that stands for the piece in `delta`."""
        raise NotImplementedError(f"{type(self).__name__} lacks __jsonencode__")

    def calculate_cost(self) -> int:
        """Return the length of the piece where `cost` gives none."""
        return 0

    def __len__(self) -> int:
        return self.calculate_cost() if self.cost is None else self.cost

    def __bool__(self) -> bool:
        """Be true: a piece without a cost is a piece, too."""
        return True


class TextChunk(BaseChunk):
    """Text of the answer; what a yielded str becomes."""

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


class ImageURLChunk(BaseChunk):
    """The address of a picture; the front end of 0.4 shows nothing for it."""

    def __init__(self, image_url: str, cost: int | None = None) -> None:
        super().__init__(cost)
        self.image_url = image_url

    def __jsonencode__(self) -> dict[str, Any]:
        """Return the bare address, as Kuwa 0.4 does."""
        return {"type": "image_url", "image_url": self.image_url}


class AudioURLChunk(BaseChunk):
    """The address of a sound; the front end of 0.4 shows nothing for it."""

    def __init__(self, audio_url: str, cost: int | None = None) -> None:
        super().__init__(cost)
        self.audio_url = audio_url

    def __jsonencode__(self) -> dict[str, Any]:
        """Return the bare address, as Kuwa 0.4 does."""
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
    """A message beside the answer, which the front end of 0.4 appends as "[LEVEL] text"."""

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
    """How far a computation is; resets the front end's timeout and shows nothing."""

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
    """Why the model refuses to answer; the front end of 0.4 shows nothing for it."""

    def __init__(self, text: str, cost: int | None = None) -> None:
        super().__init__(cost)
        self.text = text

    def __jsonencode__(self) -> dict[str, Any]:
        """Return the text."""
        return {"type": "refusal", "refusal": {"text": self.text}}


class ExitCodeChunk(BaseChunk):
    """How the answer ended; the last one of an answer counts, 0 if there is none."""

    OK = COMPLETE = 0
    INCOMPLETE = 1
    FAILURE = 1024

    def __init__(self, exit_code: int, cost: int | None = None) -> None:
        super().__init__(cost)
        self.exit_code = exit_code

    def __jsonencode__(self) -> dict[str, Any]:
        """Return the code."""
        return {"type": "exit_code", "exit_code": self.exit_code}


# What llm_compute may yield: text, a chunk, or a list of chunks (and texts) that belong together.
Piece: TypeAlias = str | BaseChunk | list[Any]
