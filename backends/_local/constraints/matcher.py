"""The matcher of one answer: a process of its own, which computes while the engine does."""

from __future__ import annotations

import contextlib
import socket
import time

from kuwa_min.chat.catalog import TOO_COMPLEX
from kuwa_min.errors import AnswerError

from .child import MASK_SECONDS, NUMBER

# Seconds that the masks of an answer may be late, in all, and more for each of its tokens.
PATIENCE, MORE_PATIENCE = float(MASK_SECONDS), 0.05
LEAST_WAIT = 0.001  # seconds; 0 would not wait for the rest of a mask


class NotYet(Exception):
    """Report that a mask is still to come: other chats do not wait for it.

    The sequence computes its last token again in the next step, and asks then.
    """


class Matcher:
    """Asks the process at the other end of a socket; one thread at a time.

    vocabulary_size: in tokens. The process is computing the mask of the first token already.
    """

    def __init__(self, connection: socket.socket, vocabulary_size: int) -> None:
        self._connection, self._patience = connection, PATIENCE
        self._asked_at: float | None = None  # for the next mask
        self._size, self.end = (vocabulary_size + 8) // 8, vocabulary_size

    def is_late(self, wait: float) -> bool:
        """Tell whether the next mask is still to come after so many seconds.

        Only the first call for a mask waits. Patience that has run out is an error of mask().
        """
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at >= self._patience:
            return False
        else:
            wait = 0
        self._connection.settimeout(wait)
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except (TimeoutError, BlockingIOError):
            return True
        except OSError:
            return False  # mask() says it
        return False

    def mask(self) -> bytearray:
        """Wait for the mask of the next token: a bit for each token, and one at `end` for the end.

        Call it once before each advance(). Raises AnswerError if there is none.
        """
        mask = bytearray(self._size)
        rest, started = memoryview(mask), self._asked_at or time.monotonic()
        self._asked_at = None
        try:
            while rest:
                left = self._patience - (time.monotonic() - started)
                self._connection.settimeout(max(LEAST_WAIT, left))
                count = self._connection.recv_into(rest)
                if not count:
                    raise EOFError
                rest = rest[count:]
        except (OSError, EOFError):
            raise AnswerError(TOO_COMPLEX) from None
        self._patience += MORE_PATIENCE - (time.monotonic() - started)
        if self._patience <= 0:
            raise AnswerError(TOO_COMPLEX)
        return mask

    def advance(self, token: int) -> None:
        """Tell which token was chosen; never waits."""
        with contextlib.suppress(OSError):  # mask() says it
            self._connection.send(NUMBER.pack(token))

    def close(self) -> None:
        """End the process."""
        self._connection.close()
