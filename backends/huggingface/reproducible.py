"""The scheduler of --reproducible: equal requests get equal answers, to the last bit of the logits.

With 16-bit numbers, a token's logits depend on how many others are computed beside it and on how
its prompt was divided. So each sequence has forward passes of its own, prompts are divided at the
same places, and nothing is reused that was computed in another way.
"""

from __future__ import annotations

from backends._local.prefill_budget import FIXED_CHUNK
from backends._local.prefix_match import PrefixMatch, match_nothing
from backends._local.prompt_cache.cache import PromptCache
from backends._local.request import Request

from .batching.attention_mask import AttentionLayout
from .batching.kv_slots import KVSlots, TransformersSequence
from .decoding.logits import Logits, sample
from .model import Aborted, TransformersModel
from .scheduler import BatchScheduler


class EmptySlots(KVSlots):
    """Slots of which no prefix is reused."""

    def _match(self, request: Request, *, can_grow: bool) -> PrefixMatch[TransformersSequence]:
        return match_nothing(self._sequences, can_grow=can_grow)


class ReproducibleScheduler(BatchScheduler):
    """Runs up to `slots` sequences in turn, one in each forward pass; a Scheduler.

    A step prefills a chunk of one prompt, then computes a token of each decoding sequence.
    """

    _slots_class = EmptySlots

    def __init__(
        self, model: TransformersModel, layout: AttentionLayout, slots: int, parked: PromptCache
    ) -> None:
        super().__init__(model, layout, slots, parked)
        self.description += ", each computed alone"

    def _prefill(self) -> None:
        while self._waiting:
            self._prefilling.append(self._slots.begin(self._waiting.popleft()))
        sequence = self._prefilling.pop(0)
        self._prefilling.append(sequence)  # the others have their turns first
        self._prefill_chunk(sequence, FIXED_CHUNK)

    def _decode_step(self) -> None:
        for sequence in self._slots.decoding:
            try:
                logits = Logits(self._passes.chunk(sequence, [sequence.next_token]))
            except Aborted:  # it should stop: the next step ends it
                self._slots.clear(sequence)
            except Exception as error:  # noqa: BLE001 - only this sequence was computed
                self._slots.clear(sequence)
                self._slots.end(sequence, error)
            else:
                self._add_decoded(sequence, sample(logits, [sequence.sampler])[0])
