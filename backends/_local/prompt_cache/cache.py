"""The prompt cache: park the state of a slot before another chat overwrites it.

Knows no library: a SlotStates saves and restores the slots of an engine.
"""

# The strategy. Each slot keeps the keys and values of its last sequence. With more chats than
# slots, a chat finds its slot taken at its next turn, and would be prefilled from its beginning. So
# 1. before a slot is overwritten, its state is parked in host memory, if more than MIN_LOST of its
#    tokens would be lost; a state that is the beginning of another one is dropped for it;
# 2. a new chat starts from the longest common prefix among slots and parked states. A slot that is
#    as good is preferred: nothing is moved then;
# 3. over the budget, the least recently used states go first.
# A state that cannot be cut (of recurrent models, and of those with sliding windows) serves only
# prompts that begin with all of its tokens. The next turn's prompt may differ from the sequence
# behind the last prompt: it has no thoughts, and may divide the answer into other tokens. So of
# such a sequence only the prompt is parked, where it can still be truncated to that.
# A state serves chats with the same adapters only.

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from backends._local.machine.free_memory import free_bytes
from backends._local.prefix_match import (
    MIN_PREFIX,
    PrefixMatch,
    Slot,
    match_nothing,
    shared_length,
)
from kuwa_min.errors import message_of

from .parked import TOKEN_BYTES, Key, ParkedState, as_bytes
from .parked_states import ParkedStates
from .state_files import StateFiles

logger = logging.getLogger(__name__)

MIN_LOST = 32  # tokens; fewer are prefilled again instead of being parked
SEAM = 8  # tokens at a prompt's end, which may merge with the answer's when that is tokenized again
FIRST_SPEED = 1e9  # bytes per second, until a state was restored


class CachedSequence(Slot, Protocol):
    """A sequence, as far as the prompt cache knows it: its tokens, and the slot that has them."""

    slot: int  # its number
    prompt_length: int  # tokens of its last prompt


SequenceT = TypeVar("SequenceT", bound=CachedSequence)


class SlotStates(Protocol):
    """Saves and restores the slots of one engine, by their numbers; for its thread.

    A state is a buffer of bytes, which need not be copied. can_cut: whether a slot can be restored
    to fewer tokens than its state has.
    """

    can_cut: bool

    def kept(self, slot: int, length: int) -> int:
        """Return how many of a slot's first `length` tokens are left if it is cut there."""

    def state_bytes(self, slot: int) -> int:
        """Return the bytes of a slot's state."""

    def save(self, slot: int, length: int) -> Any:
        """Return a copy of the state of a slot's first tokens in host memory; raises MemoryError.

        length: all of its tokens, or what kept() returned; the slot may be cut there.
        """

    def restore(self, slot: int, state: Any, tokens: Sequence[int], length: int) -> int:
        """Overwrite a slot with the first `length` of a state's tokens; return how many it holds.

        If the state does not fit, or memory runs out, the slot is empty: 0.
        """


class Found(NamedTuple):
    """A parked state, and how many of a prompt's tokens it has."""

    parked: ParkedState | None
    length: int


class PromptCache:
    """Parked states of one engine's slots, up to max_bytes; 0: parks nothing.

    For the engine's thread, but for facts().
    """

    def __init__(
        self,
        max_bytes: int,
        files: StateFiles | None = None,
        free: Callable[[], int | None] = free_bytes,
    ) -> None:
        self._parked, self._files = ParkedStates(max_bytes, free), files
        self._states: SlotStates  # see attach()
        self._hits = self._restored = 0
        self._speed = FIRST_SPEED
        self._has_failed = self._has_forgotten = False  # which the log says once
        if files is not None:
            files.start(self._parked.add, max_bytes)

    def attach(self, states: SlotStates) -> None:
        """Serve these slots; called before any of them is used, and again for new ones."""
        self._states = states

    def facts(self) -> dict[str, int]:
        """Return what the cache holds and what it saved, for /status and /metrics."""
        return {
            "entries": len(self._parked),
            "bytes": self._parked.bytes,
            "max_bytes": self._parked.max_bytes,
            "hits": self._hits,
            "restored_tokens": self._restored,
        }

    def fact(self, name: str) -> int:
        """Return one of the facts."""
        return self.facts()[name]

    # -- a new chat

    def find(self, prompt_ids: Sequence[int], adapters: str = "") -> Found:
        """Return the state that has most of a prompt's tokens, without the last one.

        adapters: with which the prompt is computed, as Request has them; so in match() and park().
        """
        reusable, best = as_bytes(prompt_ids[:-1]), Found(None, 0)
        for entry in reversed(self._parked.all()):
            if entry.adapters != adapters or not entry.tokens.startswith(
                reusable[: (best.length + 1) * TOKEN_BYTES]
            ):
                continue  # as nearly all of them: looked at in no time
            length = entry.common_prefix_length(reusable, can_cut=self._states.can_cut)
            if length > best.length:
                best = Found(entry, length)
        return best

    def match(
        self,
        sequences: Iterable[SequenceT],
        prompt_ids: Sequence[int],
        live: PrefixMatch[SequenceT],
        *,
        can_grow: bool,
        tokens_in: Callable[[float], int],
        adapters: str = "",
    ) -> tuple[PrefixMatch[SequenceT], ParkedState | None]:
        """Return the sequence whose slot a prompt gets, and the state to restore if that is better.

        live: what the slots themselves offer; tokens_in: how many tokens are prefilled in some
        seconds.
        """
        found = self.find(prompt_ids, adapters)
        if found.parked is None:
            return live, None
        source = live.source or live.slot
        kept = self._states.kept(source.slot, live.cached) if source and live.cached else 0
        cost = tokens_in(found.parked.size / self._speed)
        if found.length < kept + max(MIN_PREFIX, cost):
            return live, None
        self._note_use(found.parked)  # so that parking the slot's own state does not push it out
        sequence = match_nothing(sequences, can_grow=can_grow).slot
        return PrefixMatch(sequence, found.length, None), found.parked

    def restore(self, sequence: CachedSequence, parked: ParkedState, length: int) -> int:
        """Overwrite a slot with a parked state's beginning; return how many tokens it holds."""
        started = time.perf_counter()
        held = self._states.restore(sequence.slot, parked.state, parked.ids, length)
        if held != length:
            logger.warning("a parked chat could not be restored: it is dropped")
            self._drop(parked)
            return held
        self._speed = parked.size / max(time.perf_counter() - started, 1e-6)
        self._hits += 1
        self._restored += held
        return held

    def _note_use(self, entry: ParkedState) -> None:
        self._parked.put(entry)
        if self._files is not None:
            self._files.touch(entry)

    # -- before a slot is overwritten

    def park(
        self, sequence: CachedSequence, prompt_ids: Sequence[int] = (), adapters: str = ""
    ) -> None:
        """Park a sequence if a prompt that takes its slot overwrites more than MIN_LOST tokens."""
        if not self._parked.max_bytes:
            return
        shared = shared_length(sequence, prompt_ids, adapters)
        if len(sequence.tokens) - shared <= MIN_LOST:
            return
        length = self._parked_length(sequence, shared)
        key = sequence.adapters, as_bytes(sequence.tokens[:length])
        if self._holds(key):
            return
        try:
            size = self._states.state_bytes(sequence.slot) + len(key[1])
            if not self._make_room(key, size):
                return
            state = self._states.save(sequence.slot, length)
            entry = ParkedState(key[1], state, sequence.adapters)
        except MemoryError as error:
            level = logging.DEBUG if self._has_failed else logging.WARNING
            logger.log(level, "a chat was not parked: %s", message_of(error) or "out of memory")
            self._has_failed = True
            self.drop_all()
            return
        self._parked.put(entry)
        if self._files is not None:
            self._files.write(entry)

    def _parked_length(self, sequence: CachedSequence, shared: int) -> int:
        """Return how many of a sequence's tokens are parked, `shared` of which must not be lost."""
        length = max(sequence.prompt_length - SEAM, shared)
        if self._states.can_cut or not shared < length < len(sequence.tokens):
            return len(sequence.tokens)
        return self._states.kept(sequence.slot, length) or len(sequence.tokens)

    def _holds(self, key: Key) -> bool:
        """Tell whether a state is parked that serves whatever one of this key would."""
        same = self._parked.get(key)
        if self._states.can_cut:
            same = next((one for one in self._parked.all() if _begins(one.key, key)), None)
        if same is not None:
            self._note_use(same)
        return same is not None

    def _make_room(self, key: Key, size: int) -> bool:
        """Drop states until another one has room; return false if it never has.

        The first to go are those that it serves as well.
        """
        if self._parked.in_the_way_of(size) is None:
            return False
        if self._states.can_cut:
            for older in self._parked.all():
                if _begins(key, older.key):
                    self._drop(older)
        for entry in self._parked.in_the_way_of(size) or ():
            self._drop(entry)
        return True

    def _drop(self, entry: ParkedState) -> None:
        self._parked.drop(entry)
        if self._files is not None:
            self._files.remove(entry)

    def drop_all(self) -> bool:
        """Free the memory of all states, because memory ran out; return whether there were any."""
        entries = self._parked.all()
        for entry in entries:
            self._drop(entry)
        if entries:
            level = logging.DEBUG if self._has_forgotten else logging.WARNING
            self._has_forgotten = True
            logger.log(level, "%d parked chats are forgotten, to free memory", len(entries))
        return bool(entries)

    # -- the end

    def close(self, sequences: Iterable[CachedSequence]) -> None:
        """Park all sequences if states are kept on disk, and wait until they are written."""
        if self._files is None:
            return
        for sequence in sequences:
            self.park(sequence)
        self._files.close()


def _begins(longer: Key, shorter: Key) -> bool:
    """Tell whether a key's tokens begin with another's, computed with the same adapters."""
    return longer[0] == shorter[0] and longer[1].startswith(shorter[1])
