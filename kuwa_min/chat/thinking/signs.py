"""Signs of life while a model thinks and nothing of it is shown. No I/O."""

from __future__ import annotations

import time

from kuwa_min.chat.chunks import ProgressChunk

INTERVAL = 1.0  # seconds between two signs
THINKING = "Thinking"  # the page of the embedded Kernel shows it in its reader's language


class SignsOfLife:
    """Makes the progress chunks of one answer.

    most: tokens that the thoughts may have, if there is a limit.
    """

    interval = INTERVAL

    def __init__(self, most: int | None = None) -> None:
        self._most, self._at = most, time.monotonic()

    @property
    def is_due(self) -> bool:
        """Tell whether the last sign was an interval ago."""
        return time.monotonic() - self._at >= INTERVAL

    def sign(self, tokens: int) -> ProgressChunk:
        """Return a sign of life; tokens: that have come so far."""
        self._at = time.monotonic()
        if self._most:
            return ProgressChunk(min(tokens, self._most), self._most, THINKING)
        return ProgressChunk(tokens, 0, THINKING, f"{tokens} tokens")
