"""The matcher of one answer: a process of its own, which computes while the engine does."""

from __future__ import annotations

import contextlib
import math
import socket
import time

from kuwa_min.chat.catalog import TOO_COMPLEX
from kuwa_min.errors import AnswerError

from .child import NUMBER


class MaskPendingError(Exception):
    """Report that a mask has not come yet; logits: a copy to sample the token from once it has."""

    logits: object = None


class Matcher:
    """Asks the process at the other end of a socket; one thread at a time.

    vocabulary_size: in tokens. The process is computing the mask of the first token already. It
    ends itself when an answer takes too long.
    """

    def __init__(self, connection: socket.socket, vocabulary_size: int) -> None:
        self._connection = connection
        self._size = (vocabulary_size + 8) // 8  # bytes of a mask: a bit a token, and the end's
        self.end = vocabulary_size
        self._expect()

    def _expect(self) -> None:
        self._mask = bytearray(self._size)
        self._rest = memoryview(self._mask)

    def mask(self, deadline: float = math.inf) -> bytearray:
        """Return the mask of the next token: a bit for each token, and one at `end` for the end.

        Returns it once before each advance(). deadline: of time.monotonic(), until which it waits.
        Raises MaskPendingError after it, AnswerError if there is no mask.
        """
        try:
            while self._rest:
                self._receive(deadline)
        except (BlockingIOError, TimeoutError):
            raise MaskPendingError from None
        except (OSError, EOFError):
            raise AnswerError(TOO_COMPLEX) from None
        mask = self._mask
        self._expect()
        return mask

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        self._connection.settimeout(None if left == math.inf else max(0.0, left))
        count = self._connection.recv_into(self._rest)
        if not count:
            raise EOFError
        self._rest = self._rest[count:]

    def advance(self, token: int) -> None:
        """Tell which token was chosen; never waits."""
        with contextlib.suppress(OSError):  # mask() raises then
            self._connection.send(NUMBER.pack(token))

    def close(self) -> None:
        """End the process."""
        self._connection.close()
