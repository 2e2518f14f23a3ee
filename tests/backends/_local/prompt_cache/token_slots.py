"""Slots whose states are their own tokens as bytes: a SlotStates without a library."""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass, field
from typing import Any

from backends._local.prompt_cache.parked import TOKEN_BYTES, as_bytes


@dataclass(eq=False)
class Sequence:
    """A sequence of these tokens."""

    slot: int = 0
    tokens: list[int] = field(default_factory=list)
    adapters: str = ""
    is_idle: bool = True
    last_used: int = 0
    prompt_length: int = 0


class States:
    """Saves and restores slots; a state is as large as its tokens once more."""

    def __init__(self, sequences: list[Sequence], *, can_cut: bool = True) -> None:
        self.sequences, self.can_cut = sequences, can_cut
        self.failures = 0  # of the next calls, for want of memory
        self.saved = 0

    def kept(self, slot: int, length: int) -> int:
        """Return what a slot keeps."""
        return length if self.can_cut or length == len(self.sequences[slot].tokens) else 0

    def state_bytes(self, slot: int) -> int:
        """Return the size of a state."""
        return len(self.sequences[slot].tokens) * TOKEN_BYTES

    def save(self, slot: int, length: int) -> bytes:
        """Return the tokens."""
        self._fail()
        self.saved += 1
        return as_bytes(self.sequences[slot].tokens[:length])

    def restore(
        self, slot: int, state: Any, tokens: collections.abc.Sequence[int], length: int
    ) -> int:
        """Return how many tokens the slot holds, 0 for a state that is none."""
        whole = memoryview(bytes(state)).cast("i").tolist()
        self.sequences[slot].tokens = whole[:length] if len(whole) == len(tokens) else []
        return len(self.sequences[slot].tokens)

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise MemoryError
