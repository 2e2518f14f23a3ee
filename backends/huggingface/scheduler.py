"""The batched scheduler of transformers models: prefills and decode steps by forward()."""

# The strategy. A step first prefills, as many tokens as the prefill budget allows, then runs one
# decode step for all sequences that are decoding. Sequences join and leave between steps.
#
# Prefill. Prompts that wait and are new (no prefix of them is cached) are prefilled packed: one
# after the other in one row of a single forward pass, with a mask by which each token attends to
# its own prompt. The mask has the square of their tokens, therefore PACKED_TOKENS. A prompt that
# is longer, or of which a prefix is cached, is prefilled alone, in chunks, over several steps if
# need be; a single prompt, too. If a packed prefill fails, its prompts are prefilled alone: the
# failure then shows which of them is to blame.
#
# Decode. One token of each decoding sequence in one forward pass. Where all are equally long, no
# mask is needed; else a mask hides the columns behind each sequence's end. On a GPU, DecodeSteps
# replays the pass.
#
# Memory. When it runs out, idle sequences are dropped first and the pass is repeated; then the
# longest decoding sequence ends with an error, until the pass succeeds.

from __future__ import annotations

import logging
import math
import time
from collections import deque

import torch

from backends._local.prefill_budget import PrefillBudget, split_budget
from backends._local.request import Request
from kuwa_min.chat.catalog import OUT_OF_MEMORY
from kuwa_min.errors import AnswerError, describe

from .attention_mask import AttentionLayout, AttentionMasks
from .decoding.fixed_step import DecodeSteps, Graphs
from .decoding.sampler import NOT_A_NUMBER, Logits, sample
from .kv_slots import KVSlots, TransformersSequence
from .model import Aborted, AttentionMask, TransformersModel

logger = logging.getLogger(__name__)

MAX_CHUNK = 4096  # tokens of a prompt in one forward pass
PACKED_TOKENS = 1024  # of a packed prefill


class BatchScheduler:
    """Runs up to `slots` sequences at once; a Scheduler."""

    def __init__(
        self,
        model: TransformersModel,
        layout: AttentionLayout,
        slots: int,
        graphs: Graphs | None = None,
    ) -> None:
        """Create a scheduler without requests. graphs: to replay decode steps with."""
        self._model, self._layout, self._max_slots = model, layout, slots
        self._fixed_steps = DecodeSteps(model, layout, slots, graphs) if graphs else None
        self.description = f"{slots} at once"
        self._masks = AttentionMasks(layout)
        self._budget = PrefillBudget(MAX_CHUNK)
        self._waiting: deque[Request] = deque()
        self._prefilling: list[TransformersSequence] = []  # in chunks, in order of arrival
        self._slots = self._create_slots()

    def _create_slots(self) -> KVSlots:
        return KVSlots(self._model, self._layout.layers, self._max_slots)

    def has_free_slot(self) -> bool:
        """Tell whether another request can be added."""
        running = len(self._slots.decoding) + len(self._prefilling)
        return running + len(self._waiting) < self._max_slots

    def has_work(self) -> bool:
        """Tell whether a step has something to compute."""
        return bool(self._slots.decoding or self._waiting or self._prefilling)

    def add(self, request: Request) -> None:
        """Add a request, which the next step begins with."""
        self._waiting.append(request)

    def reset(self) -> None:
        """Drop all requests, which are finished, and the KV cache."""
        self._waiting.clear()
        self._slots = self._create_slots()
        self._prefilling = []
        if self._fixed_steps:
            self._fixed_steps.clear()
        self._model.free_memory()

    @torch.inference_mode()
    def step(self) -> None:
        """Prefill up to the budget, then run a decode step."""
        self._end_stopped()
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

    # -- prefill

    def _prefill(self) -> None:
        """Prefill up to the budget: new prompts packed, then chunks of the others."""
        waiting = len(self._waiting) + len(self._prefilling)
        budget = self._budget.tokens(waiting=waiting, decoding=len(self._slots.decoding))
        budget -= self._prefill_packed(min(budget, PACKED_TOKENS))
        sizes = split_budget(budget, [sequence.remaining for sequence in self._prefilling])
        for sequence, size in zip(list(self._prefilling), sizes, strict=True):
            if size:
                self._prefill_chunk(sequence, size)

    def _prefill_packed(self, max_tokens: int) -> int:
        """Begin all waiting requests, and prefill the short new ones packed.

        The others are prefilled in chunks. Returns the number of tokens that were prefilled.
        """
        pack: list[TransformersSequence] = []
        left = max_tokens
        while self._waiting:
            sequence = self._slots.begin(self._waiting.popleft())
            if sequence.tokens or sequence.remaining > left:
                self._prefilling.append(sequence)
            else:
                pack.append(sequence)
                left -= sequence.remaining
        if len(pack) > 1 and self._try_pack(pack):
            return max_tokens - left
        self._prefilling += pack
        return 0

    def _try_pack(self, pack: list[TransformersSequence]) -> bool:
        """Prefill these packed; return false if that failed for any of them."""
        started = time.monotonic()
        try:
            logits = Logits.of(self._forward_packed(pack))
            tokens = sample(logits, [sequence.sampler for sequence in pack])
        except Exception as error:  # noqa: BLE001 - it shows again when they are prefilled alone
            logger.debug("reading %d prompts as one failed: %s", len(pack), describe(error))
            tokens = []
        if not all(isinstance(token, int) for token in tokens) or not tokens:
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

    def _forward_packed(self, pack: list[TransformersSequence]) -> torch.Tensor:
        """Return the logits [sequences, vocabulary] after these prompts."""
        device, cache = self._model.device, self._slots.cache
        prompts = [sequence.request.prompt_ids for sequence in pack]
        lengths = [len(prompt) for prompt in prompts]
        cache.reserve(len(self._slots), max(lengths))
        cache.packed_prefill(
            [(one.slot, length) for one, length in zip(pack, lengths, strict=True)]
        )
        positions = torch.cat([torch.arange(length, device=device) for length in lengths])
        return self._model.forward(
            torch.tensor([[token for prompt in prompts for token in prompt]], device=device),
            positions[None],
            self._masks.packed_prefill_mask(lengths, device),
            cache,
            logits_to_keep=torch.tensor(lengths, device=device).cumsum(-1) - 1,
        )[0]

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
        logits = Logits.of(self._forward_chunk(sequence, chunk))
        if not math.isfinite(logits.highest[0]):
            sequence.tokens.clear()
            raise AnswerError(NOT_A_NUMBER)
        sequence.tokens += chunk
        return sample(logits, [sequence.sampler])[0] if sequence.is_prefilled else None

    def _stop_prefill(self, sequence: TransformersSequence, error: Exception | None) -> None:
        """End a sequence during its prefill."""
        sequence.request.finish(error)
        sequence.release()
        self._prefilling.remove(sequence)
        self._slots.clear(sequence)

    def _forward_chunk(self, sequence: TransformersSequence, chunk: list[int]) -> torch.Tensor:
        """Return the logits after a chunk; drop idle sequences and repeat if memory runs out."""
        try:
            return self._forward_chunk_once(sequence, chunk)
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
        self._free_memory()
        try:
            return self._forward_chunk_once(sequence, chunk)
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
        raise AnswerError(OUT_OF_MEMORY)

    def _forward_chunk_once(self, sequence: TransformersSequence, chunk: list[int]) -> torch.Tensor:
        past_length, cache = len(sequence.tokens), self._slots.cache
        cache.reserve(len(self._slots), past_length + len(chunk))
        cache.prefill(sequence.slot, past_length)
        end = past_length + len(chunk)
        positions = torch.arange(past_length, end, device=self._model.device)
        with self._model.aborting_with(sequence.request):
            return self._forward([chunk], positions[None], None)

    def _start_decoding(self, sequence: TransformersSequence, token: int | Exception) -> None:
        """Emit the first token of a completion; the sequence joins the decode steps."""
        self._slots.start_decoding(sequence)
        if self._add_token(sequence, token):
            self._slots.end(sequence)

    # -- decode

    def _decode_step(self) -> None:
        """Compute one token of every decoding sequence."""
        logits = self._forward_decode()
        if logits is None:
            return
        sequences = self._slots.decoding
        tokens = sample(logits, [sequence.sampler for sequence in sequences])
        ended = []
        for sequence, token in zip(sequences, tokens, strict=True):
            sequence.tokens.append(sequence.next_token)
            if self._add_token(sequence, token):
                ended.append(sequence)
        for sequence in reversed(ended):
            self._slots.end(sequence)

    def _forward_decode(self) -> Logits | None:
        """Return the logits of a decode step, None if no sequence is left that wants them.

        Drops idle sequences if memory runs out, then ends decoding ones, the longest first.
        """
        is_first = True
        while self._slots.decoding:
            try:
                return self._forward_decode_once()
            except Aborted:
                for sequence in self._slots.decoding:
                    self._slots.clear(sequence)
                return None  # all should stop: the next step ends them
            except Exception as error:
                if not self._model.is_out_of_memory(error):
                    raise
            if not is_first:
                self._slots.end(self._slots.longest(), AnswerError(OUT_OF_MEMORY))
            is_first = False
            self._free_memory()
        return None

    def _free_memory(self) -> None:
        """Drop recorded steps and idle sequences."""
        if self._fixed_steps:
            self._fixed_steps.clear()
        self._slots.free_memory(self._prefilling)

    def _forward_decode_once(self) -> Logits:
        sequences = self._slots.decoding
        counts = [len(sequence.tokens) for sequence in sequences]
        longest = max(counts)
        self._slots.cache.reserve(len(self._slots), longest + 1)
        found = self._fixed_steps.run(self._slots) if self._fixed_steps else None
        return found or Logits.of(self._forward_eagerly(sequences, counts, longest))

    def _forward_eagerly(
        self, sequences: list[TransformersSequence], counts: list[int], longest: int
    ) -> torch.Tensor:
        """Return the logits of a decode step, launched kernel by kernel."""
        lengths = torch.tensor(counts, device=self._model.device)
        is_even = min(counts) == longest
        self._slots.cache.decode(lengths, longest=longest, is_even=is_even)
        mask = None if is_even else self._masks.decode_mask(lengths, longest)
        tokens = [[sequence.next_token] for sequence in sequences]
        with self._model.aborting_with(*(sequence.request for sequence in sequences)):
            return self._forward(tokens, lengths[:, None], mask)

    # -- both

    def _forward(
        self, tokens: list[list[int]], positions: torch.Tensor, mask: AttentionMask
    ) -> torch.Tensor:
        """Return the logits [sequences, vocabulary] after the last token of each sequence."""
        input_ids = torch.tensor(tokens, device=self._model.device)
        return self._model.forward(input_ids, positions, mask, self._slots.cache)[:, -1]

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
