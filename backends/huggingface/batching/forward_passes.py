"""The forward passes of the batched scheduler: packed prompts, chunks of a prompt, decode steps."""

# The strategy. Prompts are packed one after the other in one row, with a mask by which each token
# attends to its own prompt; the mask has the square of their tokens. A chunk of one prompt needs no
# mask of ours. A decode step computes one token of each decoding sequence: where all are equally
# long, no mask is needed; else a mask hides the columns behind each sequence's end. On a GPU,
# DecodeSteps replays it.
#
# When memory runs out, recorded steps and idle sequences are dropped first and the pass is
# repeated; then the longest decoding sequence ends with an error, until the pass succeeds.

from __future__ import annotations

from collections.abc import Sequence

import torch

from backends.huggingface.decoding.fixed_step import DecodeSteps
from backends.huggingface.decoding.logits import Logits, sample
from backends.huggingface.device.threads import TorchThreads
from backends.huggingface.model import Aborted, AttentionMask, TransformersModel
from kuwa_min.chat.catalog import OUT_OF_MEMORY
from kuwa_min.errors import AnswerError

from .attention_mask import AttentionLayout, AttentionMasks
from .kv_slots import KVSlots, TransformersSequence


class ForwardPasses:
    """Computes logits of a batch's sequences, and the KV cache. For the engine's thread."""

    def __init__(
        self,
        model: TransformersModel,
        layout: AttentionLayout,
        slots: KVSlots,
        fixed_steps: DecodeSteps | None,
        threads: TorchThreads | None,
    ) -> None:
        """Create them over the sequences in `slots`.

        fixed_steps: to replay decode steps with; threads: how many compute, None for the number
        that torch is set to.
        """
        self._model, self._slots, self._fixed_steps = model, slots, fixed_steps
        self._threads = threads
        self._masks = AttentionMasks(layout)
        # A GPU is given all of a decode step before it has computed the first layer.
        self._stops_within_a_step = model.device.type == "cpu"

    # -- prefill

    def packed(self, pack: Sequence[TransformersSequence]) -> torch.Tensor:
        """Return the logits [sequences, vocabulary] after whole prompts, in one pass."""
        self._use_prefill_threads()
        device, cache = self._model.device, self._slots.cache
        prompts = [sequence.request.prompt_ids for sequence in pack]
        lengths = [len(prompt) for prompt in prompts]
        places = [(one.slot, length) for one, length in zip(pack, lengths, strict=True)]
        cache.reserve(len(self._slots), [(slot, 0, length) for slot, length in places])
        cache.packed_prefill(places)
        positions = torch.cat([torch.arange(length, device=device) for length in lengths])
        return self._model.forward(
            torch.tensor([[token for prompt in prompts for token in prompt]], device=device),
            positions[None],
            self._masks.packed_prefill_mask(lengths, device),
            cache,
            logits_to_keep=torch.tensor(lengths, device=device).cumsum(-1) - 1,
        )[0]

    def chunk(self, sequence: TransformersSequence, tokens: list[int]) -> torch.Tensor:
        """Return the logits [1, vocabulary] after a sequence's next tokens.

        Raises Aborted once its request should stop, and AnswerError if memory runs out though idle
        sequences were dropped.
        """
        try:
            return self._chunk_once(sequence, tokens)
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
        self._free_memory()
        try:
            return self._chunk_once(sequence, tokens)
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
        raise AnswerError(OUT_OF_MEMORY)

    def _chunk_once(self, sequence: TransformersSequence, tokens: list[int]) -> torch.Tensor:
        if len(tokens) > 1:
            self._use_prefill_threads()
        past_length, cache = len(sequence.tokens), self._slots.cache
        end = past_length + len(tokens)
        cache.reserve(len(self._slots), [(sequence.slot, past_length, end)])
        cache.prefill(sequence.slot, past_length)
        device = self._model.device
        positions = torch.arange(past_length, end, device=device)
        with self._model.aborting_with(sequence.request):
            return self._forward(torch.tensor([tokens], device=device), positions[None], None)

    def _use_prefill_threads(self) -> None:
        if self._threads is not None:
            self._threads.use_for_prefill()

    # -- decode

    def decode(self) -> list[int | Exception] | None:
        """Return the token, or the error, after one more token of every decoding sequence.

        None if no sequence is left that wants one. Drops idle sequences if memory runs out, then
        ends decoding ones, the longest first.
        """
        is_first = True
        while self._slots.decoding:
            try:
                return self._decode_once()
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

    def _decode_once(self) -> list[int | Exception]:
        sequences = self._slots.decoding
        counts = [len(sequence.tokens) for sequence in sequences]
        writes = [(slot, count, count + 1) for slot, count in enumerate(counts)]
        self._slots.cache.reserve(len(self._slots), writes)
        tokens = self._fixed_steps.run(self._slots) if self._fixed_steps else None
        if tokens is not None:
            return tokens
        logits = Logits(self._decode_eagerly(sequences, counts))
        return sample(logits, [sequence.sampler for sequence in sequences])

    def _decode_eagerly(
        self, sequences: list[TransformersSequence], counts: list[int]
    ) -> torch.Tensor:
        """Return the logits of a decode step, launched kernel by kernel."""
        if self._threads is not None:
            self._threads.use_for_decode()
        longest = max(counts)
        next_tokens = [sequence.next_token for sequence in sequences]
        tokens, lengths = torch.tensor([next_tokens, counts], device=self._model.device)
        is_even = min(counts) == longest
        self._slots.cache.decode(lengths, longest=longest, is_even=is_even)
        mask = None if is_even else self._masks.decode_mask(lengths, longest)
        requests = [sequence.request for sequence in sequences]
        with self._model.aborting_with(*(requests if self._stops_within_a_step else ())):
            return self._forward(tokens[:, None], lengths[:, None], mask)

    # -- all

    def _forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: AttentionMask
    ) -> torch.Tensor:
        """Return the logits [sequences, vocabulary] after the last token of each sequence."""
        return self._model.forward(tokens, positions, mask, self._slots.cache)[:, -1]

    def _free_memory(self) -> None:
        """Drop recorded steps and idle sequences."""
        if self._fixed_steps:
            self._fixed_steps.clear()
        self._slots.free_memory()
