"""Begin a request in the slot that holds most of its prompt, or that this can be copied to."""

# Copying a prefix costs a copy of the whole slot. So the measured time of a copy, in tokens of
# prefill, is the shortest prefix that is copied. What a slot would lose is parked in the prompt
# cache, and restored from there.

from __future__ import annotations

import sys
from collections.abc import Iterable

from backends._local.prefill_budget import PrefillBudget
from backends._local.prefix_match import (
    MIN_PREFIX,
    PrefixMatch,
    common_prefix_length,
    match_prefix,
    shared_length,
)
from backends._local.prompt_cache.cache import PromptCache
from backends._local.request import Request
from backends.llamacpp.model import LlamaModel
from backends.llamacpp.sampler import Sampler

from .context import LlamaContext
from .step_planner import LlamaSequence

MIN_COPY = 4  # tokens; that a copy of fewer pays is within the error of what is measured


class PrefixReuse:
    """Begins requests in idle slots of a context; for the engine's thread."""

    def __init__(
        self, model: LlamaModel, context: LlamaContext, cache: PromptCache, budget: PrefillBudget
    ) -> None:
        self._model, self._context, self._cache, self._budget = model, context, cache, budget

    @property
    def _min_prefix(self) -> int:
        """Return the tokens from which on copying a prefix is faster than prefilling it."""
        copy_seconds = self._context.copy_seconds
        if copy_seconds is None:
            return sys.maxsize
        return max(MIN_COPY, self._budget.tokens_in(copy_seconds))

    def is_under_way(
        self,
        request: Request,
        sequences: Iterable[LlamaSequence],
        prefilling: Iterable[LlamaSequence],
    ) -> bool:
        """Tell whether a prompt's prefix is just being prefilled for another request."""
        reusable = request.prompt_ids[:-1]
        coming = max(
            (
                common_prefix_length(one.request.prompt_ids, reusable)
                for one in prefilling
                if one.adapters == request.adapters
            ),
            default=0,
        )
        worth_it = max(self._min_prefix, MIN_PREFIX)
        if coming < worth_it:
            return False
        cached = max(shared_length(one, reusable, request.adapters) for one in sequences)
        parked = self._cache.find(request.prompt_ids, request.adapters).length
        return coming >= worth_it + max(cached, parked)

    def begin(self, request: Request, sequences: list[LlamaSequence]) -> LlamaSequence:
        """Return a sequence that begins with the request, one of these that was idle."""
        match, parked = self._cache.match(
            sequences,
            request.prompt_ids,
            self._match(request, sequences),
            can_grow=False,
            tokens_in=self._budget.tokens_in,
            adapters=request.adapters,
        )
        assert match.slot is not None  # has_free_slot() said that one is idle
        sampler = Sampler(
            request.options,
            self._model.vocabulary_size,
            request.allowed_tokens,
            keeps_logits=request.logprobs is not None,
        )
        self._cache.park(match.slot, request.prompt_ids, request.adapters)
        if parked is None:
            cached = self._keep_prefix(match.slot, match)
        else:
            cached = self._cache.restore(match.slot, parked, match.cached)
        match.slot.begin(
            request,
            self._model,
            sampler,
            cached=cached,
            max_new_tokens=_max_new_tokens(request),
        )
        return match.slot

    def _match(
        self, request: Request, sequences: list[LlamaSequence]
    ) -> PrefixMatch[LlamaSequence]:
        """Choose the slot for a request, and what it reuses."""
        return match_prefix(
            sequences,
            request.prompt_ids,
            can_grow=False,
            min_prefix=self._min_prefix,
            adapters=request.adapters,
        )

    def _keep_prefix(self, sequence: LlamaSequence, match: PrefixMatch[LlamaSequence]) -> int:
        """Keep or copy the matched prefix in a slot; return the number of tokens that it holds."""
        if match.source is None:
            return self._context.truncate(sequence.slot, match.cached)
        return self._context.copy(match.source.slot, sequence.slot, match.cached)


def _max_new_tokens(request: Request) -> int | None:
    """Return the longest completion that was asked for; None for as long as there is room."""
    most: int | None = request.options["max_tokens"]
    return most if most and most > 0 else None
