"""A constraint that allows every token, with masks that come when a test sends them."""

from __future__ import annotations

import socket
from typing import Any

from backends._local.constraints.answer import ConstrainedAnswer, Openers
from backends._local.constraints.matcher import Matcher


class LateMasks:
    """Takes the place of the process that computes the masks of one request.

    socket: its end of the connection.
    """

    def __init__(self, request: Any, model: Any) -> None:
        """Constrain a request that was not submitted, of a model of bytes."""
        size = model.vocabulary_size
        ours, self.socket = socket.socketpair()
        eos = [token for token in range(size) if token in model.eos_token_ids]
        matcher = Matcher(ours, size)
        request.constrained = ConstrainedAnswer(matcher, Openers(model.tokenizer), eos)
        self._mask = bytes([255]) * ((size + 8) // 8)

    def send(self, count: int) -> None:
        """Send `count` masks."""
        self.socket.sendall(self._mask * count)

    def close(self) -> None:
        """End the process."""
        self.socket.close()
