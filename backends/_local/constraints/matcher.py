"""The matcher of one answer: a process of its own, which computes while the engine does."""

from __future__ import annotations

import contextlib
import socket
import time

from kuwa_min.chat.catalog import TOO_COMPLEX
from kuwa_min.errors import AnswerError

from .child import MASK_SECONDS, NUMBER

# Seconds that an answer may keep the engine waiting, in all, and more for each of its tokens.
PATIENCE, MORE_PATIENCE = float(MASK_SECONDS), 0.05


class Matcher:
    """Asks the process at the other end of a socket; one thread at a time.

    vocabulary_size: in tokens. The process is computing the mask of the first token already.
    """

    def __init__(self, connection: socket.socket, vocabulary_size: int) -> None:
        self._connection, self._patience = connection, PATIENCE
        self._size, self.end = (vocabulary_size + 8) // 8, vocabulary_size

    def mask(self) -> bytearray:
        """Wait for the mask of the next token: a bit for each token, and one at `end` for the end.

        Call it once before each advance(). Raises AnswerError if there is none.
        """
        mask = bytearray(self._size)
        rest, started = memoryview(mask), time.monotonic()
        try:
            while rest:
                self._connection.settimeout(self._patience)
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
