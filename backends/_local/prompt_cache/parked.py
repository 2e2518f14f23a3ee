"""A parked state: the keys and values that a slot had, and of which tokens."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from backends._local.prefix_match import common_prefix_length

Key = tuple[str, bytes]  # adapters and tokens

TOKEN_BYTES = array("i").itemsize


def as_bytes(tokens: Sequence[int]) -> bytes:
    """Return token ids as bytes, which are compared much faster than lists."""
    return array("i", tokens).tobytes()


class ParkedState:
    """The state of a slot, its tokens, and the adapters with which they were computed.

    state: a buffer of bytes; adapters: as Request has them.
    """

    def __init__(self, tokens: bytes, state: Any, adapters: str = "") -> None:
        self.tokens, self.state, self.adapters = tokens, state, adapters
        self.size = memoryview(state).nbytes + len(tokens)

    @property
    def key(self) -> Key:
        """Return what a state is found by: its adapters and tokens."""
        return self.adapters, self.tokens

    @property
    def length(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens) // TOKEN_BYTES

    @property
    def ids(self) -> Sequence[int]:
        """Return the token ids."""
        ids = array("i")
        ids.frombytes(self.tokens)
        return ids

    def common_prefix_length(self, prompt: bytes, *, can_cut: bool) -> int:
        """Return how many of a prompt's tokens can be restored from this state."""
        if prompt.startswith(self.tokens):
            return self.length
        return common_prefix_length(self.tokens, prompt) // TOKEN_BYTES if can_cut else 0
