"""The scheduler of --reproducible: equal requests get equal answers, to the last bit of the logits.

With 16-bit or quantised numbers, a token's logits depend on how many others are computed beside it
and on how its prompt was divided. So each sequence has decode() calls of its own, prompts are
divided at the same places, and nothing is reused that was computed in another way.
"""

from __future__ import annotations

from backends._local.prefill_budget import FIXED_CHUNK
from backends._local.prefix_match import PrefixMatch, match_nothing
from backends._local.prompt_cache.cache import PromptCache
from backends._local.request import Request

from .batching.context import LlamaContext
from .batching.prefix_reuse import PrefixReuse
from .batching.step_planner import LlamaSequence
from .model import LlamaModel
from .scheduler import BatchScheduler
from .vision.steps import next_chunk


class NoReuse(PrefixReuse):
    """Begins requests where nothing of their prompts is known."""

    def is_under_way(self, *_: object) -> bool:
        """Return false: nothing is waited for."""
        return False

    def _match(
        self, request: Request, sequences: list[LlamaSequence]
    ) -> PrefixMatch[LlamaSequence]:
        return match_nothing(sequences, can_grow=False)


class ReproducibleScheduler(BatchScheduler):
    """Runs as many sequences as the context has slots in turn, one in each decode(); a Scheduler.

    A step computes a token of each decoding sequence, then a chunk of one prompt.
    """

    _prefixes_class = NoReuse

    def __init__(self, model: LlamaModel, context: LlamaContext, cache: PromptCache) -> None:
        super().__init__(model, context, cache)
        self._chunk = min(FIXED_CHUNK, context.batch_tokens)
        self.description += ", each computed alone"

    def _advance(self) -> None:
        for sequence in self._ready:
            if sequence in self._decoding:  # another one's failure may have emptied its slot
                self._compute([(sequence, [sequence.next_token])])
        if self._prefilling:
            sequence = self._prefilling.pop(0)
            self._prefilling.append(sequence)  # the others have their turns first
            self._compute([(sequence, next_chunk(sequence, self._chunk_size(sequence)))])

    def _chunk_size(self, sequence: LlamaSequence) -> int:
        """Return the tokens to prefill: of a completion, if its slot was emptied, one by one."""
        left_of_prompt = len(sequence.request.prompt_ids) - len(sequence.tokens)
        return max(1, min(self._chunk, left_of_prompt))
