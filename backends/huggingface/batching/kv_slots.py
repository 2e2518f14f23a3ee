"""The sequences of a batch and their slots in one KV cache.

Sequences that are decoding have the first slots, so that a decode step reads the cache in one
piece. An idle sequence keeps its slot for prefix reuse, until its slot or its memory is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

from backends._local.prefix_match import MIN_PREFIX, PrefixMatch, match_prefix
from backends._local.prompt_cache.cache import PromptCache
from backends._local.request import Request
from backends._local.sequence import Sequence
from backends.huggingface.decoding.sampler import Sampler
from backends.huggingface.model import TransformersModel
from kuwa_min.errors import describe

from .attention_mask import AttentionLayout

logger = logging.getLogger(__name__)

TransformersSequence = Sequence[Sampler]


class KVSlots:
    """The slots of a batch, at most `slots`, and the sequences in them."""

    can_cut = True  # of SlotStates: every column stands for itself

    def __init__(
        self, model: TransformersModel, layout: AttentionLayout, slots: int, parked: PromptCache
    ) -> None:
        self._model, self._max_slots, self._parked = model, slots, parked
        parked.attach(self)
        self.cache = layout.create_cache(model.device, model.context_length)
        self._sequences: list[TransformersSequence] = []  # at the index that is their slot
        self._decoding = 0  # sequences at the beginning of the list

    def __len__(self) -> int:
        """Return the number of slots that exist so far."""
        return len(self._sequences)

    @property
    def decoding(self) -> list[TransformersSequence]:
        """Return the sequences that are decoding; their indices are their slots."""
        return self._sequences[: self._decoding]

    @property
    def held(self) -> list[TransformersSequence]:
        """Return the sequences whose next token waits for its mask; they are not decoding."""
        return [sequence for sequence in self._sequences if sequence.held is not None]

    def padding_ends(self, first: int, end: int) -> list[int]:
        """Return the columns that rows in place of these slots, without `end`, may write to."""
        lengths = [len(sequence.tokens) for sequence in self._sequences[first:end]]
        return self.cache.padding_ends(lengths + [0] * (end - first - len(lengths)))

    def begin(
        self, request: Request, tokens_in: Callable[[float], int] = lambda _: 0
    ) -> TransformersSequence:
        """Begin a sequence where most of the prompt is known, in a slot or parked.

        tokens_in: how many tokens of prompts are computed in some seconds.
        """
        can_grow = len(self._sequences) < self._max_slots
        live = self._match(request, can_grow=can_grow)
        match, parked = self._parked.match(
            self._sequences, request.prompt_ids, live, can_grow=can_grow, tokens_in=tokens_in
        )
        sequence = match.slot
        if sequence is None:
            sequence = Sequence(len(self._sequences))
            self._sequences.append(sequence)
        self._parked.park(sequence, request.prompt_ids)
        if parked is None:
            cached = match.cached if self._copy_prefix(match, sequence) else 0
        else:
            cached = self._parked.restore(sequence, parked, match.cached)
        self.cache.truncate(sequence.slot, cached)
        sequence.begin(
            request,
            self._model,
            self._sampler(request),
            cached=cached,
            max_new_tokens=request.options["max_new_tokens"],
        )
        return sequence

    def _sampler(self, request: Request) -> Sampler:
        end_ids = sorted(self._model.eos_token_ids | request.stop_token_ids)
        allowed = request.allowed_tokens if request.constrained else None
        return Sampler(
            request.options,
            request.prompt_ids,
            end_ids,
            self._model.device,
            allowed,
            keeps_logits=request.logprobs is not None,
        )

    def _match(self, request: Request, *, can_grow: bool) -> PrefixMatch[TransformersSequence]:
        """Choose the slot for a request, and what it reuses."""
        return match_prefix(
            self._sequences, request.prompt_ids, can_grow=can_grow, min_prefix=MIN_PREFIX
        )

    def _copy_prefix(
        self, match: PrefixMatch[TransformersSequence], target: TransformersSequence
    ) -> bool:
        """Copy the matched prefix if it is in another slot; return false if memory ran out."""
        if match.source is None:
            return True
        try:
            self.cache.copy(match.source.slot, target.slot, match.cached)
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
            return False  # the prefill of the whole prompt frees memory first
        return True

    # -- SlotStates, for the prompt cache

    def kept(self, slot: int, length: int) -> int:
        """Return the tokens that are left of a slot that is cut: any number."""
        return length

    def state_bytes(self, slot: int) -> int:
        """Return the size of a slot's state."""
        return self.cache.state_bytes(len(self._sequences[slot].tokens))

    def save(self, slot: int, length: int) -> Any:
        """Return the state of a slot's first tokens in host memory; raises MemoryError."""
        try:
            return self.cache.save(slot, length)
        except Exception as error:  # noqa: BLE001 - the chat does not need it
            raise MemoryError(describe(error)) from None

    def restore(self, slot: int, state: Any, tokens: Collection[int], length: int) -> int:
        """Write a state to a slot; return how many tokens it holds, 0 if that failed."""
        try:
            return length if self.cache.restore(slot, state, len(tokens), length) else 0
        except Exception as error:  # noqa: BLE001 - the chat is read from its beginning
            logger.debug("a parked chat was not restored: %s", describe(error))
            return 0

    def close(self) -> None:
        """Keep on disk what is to be kept."""
        self._parked.close(self._sequences)

    # -- in a batch

    def start_decoding(self, sequence: TransformersSequence) -> None:
        """Move a prefilled sequence to those that are decoding."""
        self._swap(sequence.slot, self._decoding)
        self._decoding += 1

    def stop_decoding(self, sequence: TransformersSequence) -> None:
        """Move a sequence away from those that are decoding."""
        self._decoding -= 1
        self._swap(sequence.slot, self._decoding)

    def end(self, sequence: TransformersSequence, error: Exception | None = None) -> None:
        """Finish a decoding sequence's request; the sequence becomes idle."""
        sequence.request.finish(error)
        self.stop_decoding(sequence)
        sequence.release()

    def clear(self, sequence: TransformersSequence) -> None:
        """Set a slot's columns behind its tokens to zero: a failed pass may have left NaNs."""
        self.cache.clear(sequence.slot, len(sequence.tokens))

    def longest(self) -> TransformersSequence:
        """Return the decoding sequence that needs the most memory."""
        return max(self.decoding, key=lambda sequence: len(sequence.tokens))

    def free_memory(self) -> None:
        """Free the slots of idle sequences, and columns that no other sequence needs."""
        kept = self._decoding
        for sequence in self._sequences[kept:]:
            if not sequence.is_idle:  # it is being prefilled, or held
                self._swap(sequence.slot, kept)
                kept += 1
        if self._model.device.type == "cpu":
            self._parked.drop_all()
        else:
            self._park(self._sequences[kept:])
        logger.warning("out of memory: %d idle chats are forgotten", len(self._sequences) - kept)
        del self._sequences[kept:]
        longest = max((len(sequence.tokens) for sequence in self._sequences), default=1)
        self.cache.shrink(kept, longest)
        self._model.free_memory()

    def _park(self, idle: Iterable[TransformersSequence]) -> None:
        """Park what a GPU has no room for, as far as that needs none of its memory itself."""
        for sequence in idle:
            try:
                self._parked.park(sequence)
            except Exception as error:  # noqa: BLE001 - memory ran out
                logger.debug("an idle chat was not parked: %s", describe(error))
                return

    def _swap(self, one: int, other: int) -> None:
        """Exchange the sequences of two slots, and what the cache holds of them."""
        if one == other:
            return
        first, second = self._sequences[one], self._sequences[other]
        self.cache.swap(one, other, max(len(first.tokens), len(second.tokens)))
        self._sequences[one], self._sequences[other] = second, first
        first.slot, second.slot = other, one
