"""The batched scheduler of transformers models: prefills and decode steps by forward()."""

# The strategy. A step first prefills, as many tokens as the prefill budget allows, then runs one
# decode step for all sequences that are decoding. Sequences join and leave between steps.
#
# Prompts that wait and are new (no prefix of them is cached) are prefilled packed, in one forward
# pass of up to PACKED_TOKENS (MAX_CHUNK where no mask is needed). A prompt that is longer, or of
# which a prefix is cached, is prefilled alone, in chunks, over several steps if need be; a single
# prompt, too. If a packed prefill fails, its prompts are prefilled alone: the failure then shows
# which of them is to blame.
#
# A sequence whose next token must wait for its mask (of what its answer must match) is left out of
# the steps until that has come; what it computed is kept as the logits to sample from.

from __future__ import annotations

import logging
import math
import time
from collections import deque

import torch

from backends._local.constraints.matcher import MaskPendingError
from backends._local.machine.idle_measurements import Measurement
from backends._local.prefill_budget import BEGIN_SECONDS, PrefillBudget, split_budget
from backends._local.prompt_cache.cache import PromptCache
from backends._local.request import MASK_WAIT, Request
from kuwa_min.errors import AnswerError, describe

from .batching.attention_mask import AttentionLayout
from .batching.forward_passes import ForwardPasses
from .batching.kv_slots import KVSlots, TransformersSequence
from .decoding.fixed_step import DecodeSteps, Graphs
from .decoding.logits import NOT_A_NUMBER, Logits, sample
from .device.threads import TorchThreads
from .model import Aborted, TransformersModel

logger = logging.getLogger(__name__)

MAX_CHUNK = 4096  # tokens of a prompt in one forward pass
PACKED_TOKENS = 1024  # of a packed prefill with a mask, which has their square


class BatchScheduler:
    """Runs up to `slots` sequences at once; a Scheduler."""

    _slots_class = KVSlots

    def __init__(
        self,
        model: TransformersModel,
        layout: AttentionLayout,
        slots: int,
        parked: PromptCache,
        graphs: Graphs | None = None,
        threads: TorchThreads | None = None,
    ) -> None:
        """Create a scheduler without requests.

        parked: what slots lose, and regain; graphs: to replay decode steps with; threads: how many
        compute, None for the number that torch is set to.
        """
        self._parked, self._threads = parked, threads
        self._model, self._layout, self._max_slots = model, layout, slots
        self._fixed_steps = DecodeSteps(model, layout, slots, graphs) if graphs else None
        self.description = f"{slots} at once"
        self.measurement: Measurement | None = None
        self._budget = PrefillBudget(MAX_CHUNK)
        self._waiting: deque[Request] = deque()
        self._prefilling: list[TransformersSequence] = []  # in chunks, in order of arrival
        self._create_slots()

    def _create_slots(self) -> None:
        """Begin with an empty KV cache."""
        self._slots = self._slots_class(self._model, self._layout, self._max_slots, self._parked)
        self._passes = ForwardPasses(
            self._model, self._layout, self._slots, self._fixed_steps, self._threads
        )

    def has_free_slot(self) -> bool:
        """Tell whether another request can be added."""
        running = len(self._slots.decoding) + len(self._slots.held) + len(self._prefilling)
        return running + len(self._waiting) < self._max_slots

    def has_work(self) -> bool:
        """Tell whether a step has something to compute."""
        return bool(self._is_busy or self._slots.held)

    @property
    def _is_busy(self) -> bool:
        return bool(self._slots.decoding or self._waiting or self._prefilling)

    def add(self, request: Request) -> None:
        """Add a request, which the next step begins with."""
        self._waiting.append(request)

    def reset(self) -> None:
        """Drop all requests, which are finished, and the KV cache."""
        self._waiting.clear()
        self._create_slots()
        self._prefilling = []
        if self._fixed_steps:
            self._fixed_steps.clear()
        self._model.free_memory()

    @torch.inference_mode()
    def close(self) -> None:
        """Keep on disk what is to be kept."""
        self._slots.close()

    @torch.inference_mode()
    def step(self) -> None:
        """Prefill up to the budget, then run a decode step."""
        self._end_stopped()
        self._sample_held()
        if self._waiting or self._prefilling:
            for sequence in self._slots.decoding:
                sequence.request.flush()
            self._prefill()
        if self._slots.decoding:
            self._decode_step()

    def _end_stopped(self) -> None:
        """Finish the requests that should stop."""
        for sequence in reversed(self._slots.decoding):
            if sequence.request.should_stop:
                self._slots.end(sequence)
        stopped = [request for request in self._waiting if request.should_stop]
        for request in stopped:
            self._waiting.remove(request)
            request.finish()
        for sequence in list(self._prefilling):
            if sequence.request.should_stop:
                self._stop_prefill(sequence, None)
        for sequence in self._slots.held:
            if sequence.request.should_stop:
                sequence.request.finish()
                sequence.release()

    def _sample_held(self) -> None:
        """Sample tokens whose masks have come; wait for them a little if there is nothing else."""
        deadline = time.monotonic() + (0 if self._is_busy else MASK_WAIT)
        for sequence in self._slots.held:
            if not sequence.request.is_held(deadline):
                (token,) = sample(Logits(sequence.held), [sequence.sampler])
                sequence.held = None
                self._start_decoding(sequence, token)

    # -- prefill

    def _prefill(self) -> None:
        """Prefill up to the budget: new prompts packed, then chunks of the others."""
        waiting = len(self._waiting) + len(self._prefilling)
        budget = self._budget.tokens(waiting=waiting, decoding=len(self._slots.decoding))
        most = MAX_CHUNK if self._layout.attention else PACKED_TOKENS
        budget -= self._prefill_packed(min(budget, most))
        sizes = split_budget(budget, [sequence.remaining for sequence in self._prefilling])
        for sequence, size in zip(list(self._prefilling), sizes, strict=True):
            if size:
                self._prefill_chunk(sequence, size)

    def _prefill_packed(self, max_tokens: int) -> int:
        """Begin all waiting requests, and prefill the short new ones packed.

        The others are prefilled in chunks. Returns the number of tokens that were prefilled.
        """
        pack: list[TransformersSequence] = []
        left, deadline = max_tokens, time.monotonic() + BEGIN_SECONDS
        while self._waiting:
            sequence = self._slots.begin(self._waiting.popleft(), self._budget.tokens_in)
            if sequence.tokens or sequence.remaining > left:
                self._prefilling.append(sequence)
            else:
                pack.append(sequence)
                left -= sequence.remaining
            if self._slots.decoding and time.monotonic() > deadline:
                break
        if len(pack) > 1 and self._try_pack(pack):
            return max_tokens - left
        self._prefilling += pack
        return 0

    def _try_pack(self, pack: list[TransformersSequence]) -> bool:
        """Prefill these packed; return false if that failed for any of them."""
        started = time.monotonic()
        try:
            logits = Logits(self._passes.packed(pack))
            tokens = sample(logits, [sequence.sampler for sequence in pack])
        except Exception as error:  # noqa: BLE001 - it shows again when they are prefilled alone
            logger.debug("reading %d prompts as one failed: %s", len(pack), describe(error))
            tokens = []
        if not all(isinstance(token, (int, MaskPendingError)) for token in tokens) or not tokens:
            for sequence in pack:
                self._slots.clear(sequence)
            return False
        for sequence in pack:  # of all, before start_decoding() swaps slots
            sequence.tokens = list(sequence.request.prompt_ids)
        for sequence, token in zip(pack, tokens, strict=True):
            self._start_decoding(sequence, token)
        count = sum(len(sequence.request.prompt_ids) for sequence in pack)
        self._budget.record(count, time.monotonic() - started)
        return True

    def _prefill_chunk(self, sequence: TransformersSequence, size: int) -> None:
        """Prefill the next `size` tokens of a prompt; after its last one, decoding starts."""
        chunk = sequence.next_chunk(size)
        started = time.monotonic()
        try:
            token = self._token_after(sequence, chunk)
        except Aborted:
            self._stop_prefill(sequence, None)
        except Exception as error:  # noqa: BLE001 - only this sequence was computed
            self._stop_prefill(sequence, error)
        else:
            if token is not None:
                self._prefilling.remove(sequence)
                self._start_decoding(sequence, token)
        self._budget.record(len(chunk), time.monotonic() - started)

    def _token_after(
        self, sequence: TransformersSequence, chunk: list[int]
    ) -> int | Exception | None:
        """Prefill a chunk; return the first token of the completion if it was the last chunk."""
        logits = Logits(self._passes.chunk(sequence, chunk))
        is_last = len(chunk) == sequence.remaining
        tokens = sample(logits, [sequence.sampler] if is_last else [])
        if not math.isfinite(logits.highest[0]):
            sequence.tokens.clear()
            raise AnswerError(NOT_A_NUMBER)
        sequence.tokens += chunk
        return tokens[0] if is_last else None

    def _stop_prefill(self, sequence: TransformersSequence, error: Exception | None) -> None:
        """End a sequence during its prefill."""
        sequence.request.finish(error)
        sequence.release()
        self._prefilling.remove(sequence)
        self._slots.clear(sequence)

    def _start_decoding(self, sequence: TransformersSequence, token: int | Exception) -> None:
        """Emit a token after a prefill or a late mask; the sequence joins the decode steps."""
        if isinstance(token, MaskPendingError):
            sequence.held = token.logits
            return
        self._slots.start_decoding(sequence)
        if self._add_token(sequence, token):
            self._slots.end(sequence)

    # -- decode

    def _decode_step(self) -> None:
        """Compute one token of every decoding sequence."""
        tokens = self._passes.decode()
        if tokens is None:
            return
        # From the last one: what leaves exchanges slots with the last that is decoding, which has
        # had its token by then.
        for sequence, token in [*zip(self._slots.decoding, tokens, strict=True)][::-1]:
            self._add_decoded(sequence, token)

    def _add_decoded(self, sequence: TransformersSequence, token: int | Exception) -> None:
        """Add the token sampled after a decode step; without its mask, hold the sequence."""
        sequence.tokens.append(sequence.next_token)
        if isinstance(token, MaskPendingError):
            sequence.held = token.logits
            self._slots.stop_decoding(sequence)
        elif self._add_token(sequence, token):
            self._slots.end(sequence)

    def _add_token(self, sequence: TransformersSequence, token: int | Exception) -> bool:
        """Add a sampled token to a sequence; return whether the completion ends with it."""
        if isinstance(token, Exception):
            sequence.tokens = []
            self._slots.clear(sequence)
            sequence.request.finish(token)
            return True
        try:
            sequence.sampler.record(token)
            return sequence.add_token(token)
        except Exception as error:  # noqa: BLE001 - it belongs to this sequence alone
            sequence.request.finish(error)
            return True
