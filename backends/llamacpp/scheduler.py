"""The batched scheduler of llama.cpp: one llama_decode() a step for prefills and decode steps."""

# The strategy. A step is one llama_decode(): a token of every decoding sequence, and beside them
# chunks of prompts, as many tokens as the prefill budget allows. Sequences join and leave between
# steps; an idle one keeps its slot for prefix reuse.
#
# PrefixReuse finds where most of a prompt is known. A request whose prefix is just being prefilled
# for another one (a system prompt) waits until it can be copied. With chats that are decoding,
# requests begin, which may copy states, for BEGIN_SECONDS of a step at most.
#
# Constrained answers. A sequence whose next token must wait for its mask is left out of the steps
# until that has come; what it computed is kept as the logits that the token is sampled from.
#
# Failures. When a decode of several sequences fails, each is computed alone: the failure then ends
# the one that is to blame. Sequences whose slots were emptied meanwhile are prefilled again with
# prompt and completion.

from __future__ import annotations

import logging
import time
from collections import deque

from backends._local.constraints.matcher import MaskPendingError
from backends._local.machine.idle_measurements import Measurement
from backends._local.prefill_budget import BEGIN_SECONDS, PrefillBudget
from backends._local.prompt_cache.cache import PromptCache
from backends._local.request import MASK_WAIT, Request
from backends._local.sequence import Sequence
from kuwa_min.chat.catalog import OUT_OF_MEMORY
from kuwa_min.errors import AnswerError, describe

from .batching.context import Aborted, DecodeResult, LlamaContext
from .batching.prefix_reuse import PrefixReuse
from .batching.step_planner import LlamaSequence, Plan, StepPlanner
from .model import LlamaModel
from .sampler import NoToken, sample
from .vision import steps

logger = logging.getLogger(__name__)

UNDISTURBED = 4  # times the duration of a prefill while no chat is decoding


class BatchScheduler:
    """Runs as many sequences at once as the context has slots; a Scheduler."""

    _prefixes_class = PrefixReuse

    def __init__(self, model: LlamaModel, context: LlamaContext, cache: PromptCache) -> None:
        self._context, self._cache = context, cache
        self._budget = PrefillBudget(context.batch_tokens, undisturbed=UNDISTURBED)
        self._prefixes = self._prefixes_class(model, context, cache, self._budget)
        self._sequences = self._idle_sequences()
        slots = len(self._sequences)
        self._planner = StepPlanner(self._budget, batch_tokens=context.batch_tokens, slots=slots)
        self._waiting: deque[Request] = deque()
        self._prefilling: list[LlamaSequence] = []  # in order of arrival
        self._decoding: list[LlamaSequence] = []
        self._computing: tuple[Request, ...] = ()  # what the decode() under way is for
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
        deadline = time.monotonic() + BEGIN_SECONDS
        for request in list(self._waiting):
            if self._prefixes.is_under_way(request, self._sequences, self._prefilling):
                continue  # it can be copied at a later step
            self._waiting.remove(request)
            self._prefilling.append(self._prefixes.begin(request, self._sequences))
            if self._decoding and time.monotonic() > deadline:
                break
        self._sample_held()
        if not (self._prefilling or self._ready):
            return
        try:
            self._advance()
        except Aborted:  # all should stop: the next step ends them
            self._restart_emptied()

    @property
    def _ready(self) -> list[LlamaSequence]:
        """Return the decoding sequences but those whose next token waits for its mask."""
        return [sequence for sequence in self._decoding if sequence.held is None]

    def _sample_held(self) -> None:
        """Sample tokens whose masks have come; wait for them a little if there is nothing else."""
        held = [sequence for sequence in self._decoding if sequence.held is not None]
        is_busy = self._prefilling or len(held) < len(self._decoding)
        deadline = time.monotonic() + (0 if is_busy else MASK_WAIT)
        for sequence in held:
            if not sequence.request.is_held(deadline):
                result = DecodeResult(sequence.held[None], [None])
                sequence.held = None
                self._add_tokens([sequence], sample(self._context, result, [sequence.sampler]))

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

    # -- computing

    def _advance(self) -> None:
        """Compute what this step computes; raises Aborted."""
        waiting = len(self._waiting)
        self._compute(self._planner.plan(self._ready, self._prefilling, waiting))

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

    def _add_tokens(self, sequences: list[LlamaSequence], tokens: list[int | NoToken]) -> None:
        """Add a sampled token to each sequence; end those that had NaNs."""
        spoiled = []
        for sequence, token in zip(sequences, tokens, strict=True):
            if isinstance(token, AnswerError):
                spoiled.append(sequence.slot)
                self._end(sequence, token)
                continue
            if sequence in self._prefilling:
                self._prefilling.remove(sequence)
                self._decoding.append(sequence)
            if isinstance(token, MaskPendingError):
                sequence.held = token.logits
            else:
                self._add_token(sequence, token)
        if spoiled:
            self._context.reset(spoiled)
            self._restart_emptied()

    def _add_token(self, sequence: LlamaSequence, token: int) -> None:
        try:
            is_last = sequence.add_token(token)
        except Exception as error:  # noqa: BLE001 - it belongs to this sequence alone
            self._end(sequence, error)
            return
        if is_last:
            self._end(sequence)
