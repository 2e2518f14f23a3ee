"""The batched scheduler of llama.cpp: one llama_decode() a step for prefills and decode steps."""

# The strategy. A step is one llama_decode(): a token of every decoding sequence, and beside them
# chunks of prompts, as many tokens as the prefill budget allows. Sequences join and leave between
# steps; an idle one keeps its slot for prefix reuse.
#
# Prefix reuse. Copying a prefix costs a copy of the whole sequence, so that the measured time of a
# copy, in tokens of prefill, is the shortest prefix that is copied. A request whose prefix is just
# being prefilled for another one (a system prompt) waits until it can be copied. What a slot would
# lose is parked in the prompt cache, and restored from there; with chats that are decoding, once a
# step at most.
#
# Failures. When a decode of several sequences fails, each is computed alone: the failure then ends
# the one that is to blame. Sequences whose slots were emptied meanwhile are prefilled again with
# prompt and completion.

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from functools import partial

from backends._local.constraints.matcher import NotYet
from backends._local.machine.idle_measurements import Measurement
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
from backends._local.sequence import Sequence
from kuwa_min.chat.catalog import OUT_OF_MEMORY
from kuwa_min.errors import AnswerError, describe

from .batching.context import Aborted, LlamaContext
from .batching.step_planner import LlamaSequence, Plan, StepPlanner
from .model import LlamaModel
from .sampler import Sampled, Sampler, sample
from .vision import steps

logger = logging.getLogger(__name__)

UNDISTURBED = 4  # times the duration of a prefill while no chat is decoding


class BatchScheduler:
    """Runs as many sequences at once as the context has slots; a Scheduler."""

    def __init__(self, model: LlamaModel, context: LlamaContext, cache: PromptCache) -> None:
        self._model, self._context, self._cache = model, context, cache
        self._budget = PrefillBudget(context.batch_tokens, undisturbed=UNDISTURBED)
        self._sequences = self._idle_sequences()
        slots = len(self._sequences)
        self._planner = StepPlanner(self._budget, batch_tokens=context.batch_tokens, slots=slots)
        self._waiting: deque[Request] = deque()
        self._prefilling: list[LlamaSequence] = []  # in order of arrival
        self._decoding: list[LlamaSequence] = []
        self._computing: tuple[Request, ...] = ()  # what the decode() under way is for
        self._can_repeat = True  # the last token of a sequence, until that turns out to be wrong
        self.measurement: Measurement | None = None
        self.description = f"{slots} at once" if slots > 1 else "one at a time"

    def _idle_sequences(self) -> list[LlamaSequence]:
        return [Sequence(slot) for slot in range(len(self._context.sequence_lengths))]

    def has_free_slot(self) -> bool:
        """Tell whether another request can be added."""
        running = len(self._decoding) + len(self._prefilling)
        return running + len(self._waiting) < len(self._sequences)

    def has_work(self) -> bool:
        """Tell whether a step has something to compute."""
        return bool(self._decoding or self._prefilling or self._waiting)

    def add(self, request: Request) -> None:
        """Add a request, which the next step begins with."""
        request.on_cancel = self._abort_if_unwanted
        self._waiting.append(request)

    def reset(self) -> None:
        """Drop all requests, which are finished, and the KV cache."""
        self._waiting.clear()
        self._prefilling, self._decoding = [], []
        self._sequences = self._idle_sequences()
        self._context.clear()

    def close(self) -> None:
        """Keep on disk what is to be kept."""
        self._cache.close(self._sequences)

    def step(self) -> None:
        """Compute a token of every decoding sequence, and chunks of prompts beside them."""
        self._end_stopped()
        for request in list(self._waiting):
            if self._is_prefix_under_way(request):
                continue  # it can be copied at a later step
            self._waiting.remove(request)
            if self._begin(request) and self._decoding:
                break
        if not (self._prefilling or self._decoding):
            return
        try:
            self._advance()
        except Aborted:  # all should stop: the next step ends them
            self._restart_emptied()

    def _end_stopped(self) -> None:
        """Finish the requests that should stop."""
        for sequence in [*self._decoding, *self._prefilling]:
            if sequence.request.should_stop:
                self._end(sequence)
        stopped = [request for request in self._waiting if request.should_stop]
        for request in stopped:
            self._waiting.remove(request)
            request.finish()

    def _end(self, sequence: LlamaSequence, error: Exception | None = None) -> None:
        """Finish a sequence's request; the sequence becomes idle."""
        sequence.request.finish(error)
        for sequences in (self._decoding, self._prefilling):
            if sequence in sequences:
                sequences.remove(sequence)
        if sequence.request.model_inputs is not None:  # it may have ended within a picture
            kept = self._context.truncate(sequence.slot, len(sequence.tokens))
            sequence.tokens = sequence.tokens[:kept]
            sequence.request.model_inputs = None  # the request is kept until the slot's next one
        sequence.release()

    # -- beginning

    @property
    def _min_prefix(self) -> int:
        """Return the tokens from which on copying a prefix is faster than prefilling it."""
        copy_seconds = self._context.copy_seconds
        return sys.maxsize if copy_seconds is None else self._budget.tokens_in(copy_seconds)

    def _is_prefix_under_way(self, request: Request) -> bool:
        """Tell whether a prompt's prefix is just being prefilled for another request."""
        reusable = request.prompt_ids[:-1]
        coming = max(
            (
                common_prefix_length(one.request.prompt_ids, reusable)
                for one in self._prefilling
                if one.adapters == request.adapters
            ),
            default=0,
        )
        worth_it = max(self._min_prefix, MIN_PREFIX)
        if coming < worth_it:
            return False
        cached = max(shared_length(one, reusable, request.adapters) for one in self._sequences)
        parked = self._cache.find(request.prompt_ids, request.adapters).length
        return coming >= worth_it + max(cached, parked)

    def _begin(self, request: Request) -> bool:
        """Begin a sequence where most of the prompt is known; return whether a state was moved."""
        match, parked = self._cache.match(
            self._sequences,
            request.prompt_ids,
            self._match(request),
            can_grow=False,
            tokens_in=self._budget.tokens_in,
            adapters=request.adapters,
        )
        assert match.slot is not None  # has_free_slot() said that one is idle
        allowed = partial(request.allowed_tokens, waits=not self._can_repeat)
        sampler = Sampler(request.options, self._model.vocabulary_size, allowed)
        is_parked = self._cache.park(match.slot, request.prompt_ids, request.adapters)
        if parked is None:
            cached = self._keep_prefix(match.slot, match)
        else:
            cached = self._cache.restore(match.slot, parked, match.cached)
        match.slot.begin(
            request,
            self._model,
            sampler,
            cached=cached,
            max_new_tokens=max(0, request.options["max_tokens"] or 0) or None,
        )
        self._prefilling.append(match.slot)
        return is_parked or parked is not None

    def _match(self, request: Request) -> PrefixMatch[LlamaSequence]:
        """Choose the slot for a request, and what it reuses."""
        return match_prefix(
            self._sequences,
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

    # -- computing

    def _advance(self) -> None:
        """Compute what this step computes; raises Aborted."""
        waiting = len(self._waiting)
        self._compute(self._planner.plan(self._decoding, self._prefilling, waiting))

    def _compute(self, plan: Plan) -> None:
        """Compute a plan and emit its tokens: its text at once, then each picture."""
        texts, pictures = steps.divided(plan)
        if texts:
            self._compute_together(texts)
        for entry in pictures:
            if entry[0] in self._prefilling:  # the failure of others may have emptied its slot
                self._compute_together(self._again([entry]))

    def _compute_together(self, plan: Plan) -> None:
        """Compute a plan in one decode(); if that fails, compute each sequence alone."""
        try:
            self._compute_batched(plan)
        except (MemoryError, RuntimeError) as error:
            logger.debug("computing %d chats failed: %s", len(plan), describe(error))
            self._restart_emptied()
            if isinstance(error, MemoryError) and self._cache.drop_all():
                self._compute(self._again(plan))
                return
            if len(plan) == 1:
                out_of_memory = isinstance(error, MemoryError)
                self._end(plan[0][0], AnswerError(OUT_OF_MEMORY) if out_of_memory else error)
                return
            for entry in plan:
                self._compute(self._again([entry]))

    def _again(self, plan: Plan) -> Plan:
        """Return a plan that failed as it is now: some of its sequences may have been emptied."""
        return [
            (one, steps.next_chunk(one, len(tokens)) if one in self._prefilling else tokens)
            for one, tokens in plan
        ]

    def _restart_emptied(self) -> None:
        """Prefill sequences again whose slots were emptied."""
        for sequence in self._sequences:
            kept = self._context.sequence_lengths[sequence.slot]
            if kept == len(sequence.tokens):
                continue
            if sequence in self._decoding:
                sequence.restart_prefill(kept)
                self._decoding.remove(sequence)
                self._prefilling.append(sequence)
            else:
                sequence.tokens = sequence.tokens[:kept]

    def _compute_batched(self, plan: Plan) -> None:
        """Compute a plan in one decode(), and emit its tokens."""
        if self._prefilling:
            for sequence in self._decoding:
                sequence.request.flush()  # this step may take long
        chunks = [steps.chunk(sequence, tokens) for sequence, tokens in plan]
        self._context.use_adapters(plan[0][0].adapters)
        started = time.monotonic()
        self._computing = tuple(sequence.request for sequence, _ in plan)
        self._context.clear_abort()
        self._abort_if_unwanted()
        try:
            result = self._context.decode(chunks)
        finally:
            self._computing = ()
        for sequence, tokens in plan:
            sequence.tokens += tokens
        if self._prefilling:
            count = sum(len(chunk.tokens) for chunk in chunks)
            self._budget.record(count, time.monotonic() - started)
        sampled = [
            sequence
            for (sequence, _), chunk in zip(plan, chunks, strict=True)
            if chunk.wants_logits
        ]
        next_tokens = sample(self._context, result, [sequence.sampler for sequence in sampled])
        self._add_tokens(sampled, next_tokens)

    def _abort_if_unwanted(self) -> None:
        """Abort the decode() under way if all its requests should stop; from any thread."""
        computing = self._computing
        if computing and all(request.should_stop for request in computing):
            self._context.abort()

    def _add_tokens(self, sequences: list[LlamaSequence], tokens: list[Sampled]) -> None:
        """Add a sampled token to each sequence; end those that had NaNs."""
        spoiled = []
        for sequence, token in zip(sequences, tokens, strict=True):
            if isinstance(token, NotYet):
                self._repeat(sequence)
            elif isinstance(token, AnswerError):
                spoiled.append(sequence.slot)
                self._end(sequence, token)
            else:
                self._add_token(sequence, token)
        if spoiled:
            self._context.reset(spoiled)
            self._restart_emptied()

    def _repeat(self, sequence: LlamaSequence) -> None:
        """Let the next step compute a sequence's last token again, for what may come behind it."""
        last = len(sequence.tokens) - 1
        kept = self._context.truncate(sequence.slot, last)
        self._can_repeat = self._can_repeat and kept == last
        sequence.tokens.pop()
        self._restart_emptied()

    def _add_token(self, sequence: LlamaSequence, token: int) -> None:
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
            self._decoding.append(sequence)
        try:
            is_last = sequence.add_token(token)
        except Exception as error:  # noqa: BLE001 - it belongs to this sequence alone
            self._end(sequence, error)
            return
        if is_last:
            self._end(sequence)
