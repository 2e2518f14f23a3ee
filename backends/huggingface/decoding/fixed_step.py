"""Decode steps of fixed shapes, which a GPU replays without waiting for the interpreter."""

# The strategy. A decode step launches more than a thousand kernels, and the interpreter takes
# longer to launch them than the GPU to run them. A CUDA graph launches all of them at once, if the
# same kernels work on the same memory each time. So a step of fixed shape:
#
# - has tokens and lengths in tensors of its own, which one copy fills. Lengths are data: where a
#   row is written and what its mask hides follows from them on the GPU.
# - reads a fixed number of columns, a power of two times GROWTH, however long the sequences are:
#   the mask hides the rest.
# - has as many rows as there are sequences up to EXACT_ROWS, then a multiple of ROW_STEP. A row
#   too many computes a token behind what its slot holds, where the next token of that slot will
#   overwrite it.
# - finds the likeliest token of each row on the GPU. One copy brings them back, and is the only
#   wait of the step. Sequences that sample copy their candidates besides.
#
# A shape is recorded when it occurs for the third time. The recordings hold addresses of the KV
# cache: they are dropped when its buffers move. The first failure turns all of this off, and every
# step is computed kernel by kernel from then on, as on a processor.

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import torch

from backends.huggingface.batching.attention_mask import AttentionLayout, AttentionMasks
from backends.huggingface.batching.kv_cache import GROWTH, SlotCache
from backends.huggingface.batching.kv_slots import KVSlots
from backends.huggingface.device.errors import first_line
from backends.huggingface.model import TransformersModel

from .sampler import Logits

logger = logging.getLogger(__name__)

RECORDED_AT = 3  # occurrences of a shape: a prompt that is answered shortly is not worth it
EXACT_ROWS, ROW_STEP = 8, 4
PADDING_TOKEN = 0
TEST_LENGTHS = (9, 5)  # tokens of the prompts of the self-test

Shape = tuple[int, int]  # rows, columns


class Graphs(Protocol):
    """What records computations: CudaGraphs."""

    def pinned(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Return memory of the machine for copies from and to the device."""

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        """Return what runs compute() again, on the same memory."""

    def synchronize(self) -> None:
        """Wait for the device."""


class FixedStep:
    """A decode step of one shape over a KV cache."""

    def __init__(
        self,
        model: TransformersModel,
        layout: AttentionLayout,
        cache: SlotCache,
        shape: Shape,
        graphs: Graphs,
    ) -> None:
        rows, self._columns = shape
        self._model, self._cache, self._graphs = model, cache, graphs
        self._masks = AttentionMasks(layout)  # of its own: it keeps tensors that are recorded
        self._inbox = graphs.pinned(2, rows, dtype=torch.long)
        self._outbox = graphs.pinned(2, rows, dtype=torch.double)
        self._inputs = torch.zeros(2, rows, dtype=torch.long, device=model.device)
        self._replay: Callable[[], None] | None = None  # recorded by the first run

    def _compute(self) -> None:
        tokens, lengths = self._inputs
        longest = self._columns - 1
        self._cache.decode(lengths, longest=longest, is_even=False)
        mask = self._masks.decode_mask(lengths, longest)
        logits = self._model.forward(tokens[:, None], lengths[:, None], mask, self._cache)
        self._logits = logits[:, -1]
        highest, best = self._logits.max(-1)
        self._maxima = torch.stack((highest.double(), best.double()))

    def run(self, tokens: list[int], lengths: list[int]) -> Logits:
        """Compute the logits after one more token of each row; valid until the next run.

        lengths: tokens of each row before the step.
        """
        self._inbox.copy_(torch.tensor([tokens, lengths]))
        self._inputs.copy_(self._inbox, non_blocking=True)
        if self._replay is None:  # it writes to the cache, so it must have its values by now
            self._replay = self._graphs.record(self._compute)
        self._replay()
        self._outbox.copy_(self._maxima, non_blocking=True)
        self._graphs.synchronize()
        highest, best = self._outbox.tolist()
        return Logits(self._logits, highest, [int(token) for token in best])


class DecodeSteps:
    """The fixed steps of a scheduler. For the engine's thread."""

    def __init__(
        self, model: TransformersModel, layout: AttentionLayout, max_rows: int, graphs: Graphs
    ) -> None:
        self._model, self._layout, self._max_rows, self._graphs = model, layout, max_rows, graphs
        self._seen: Counter[Shape] = Counter()
        self._steps: dict[Shape, FixedStep] = {}
        self._buffers: object = None  # of the cache when the steps were recorded
        self._is_on = True

    def run(self, slots: KVSlots) -> Logits | None:
        """Return the logits of the next decode step; None if it must be computed another way.

        The cache must have room for the step.
        """
        shape = self._shape(slots) if self._is_on else None
        if shape is None:
            return None
        self._seen[shape] += 1
        if self._seen[shape] < RECORDED_AT:
            return None
        try:
            return self._run(slots, shape)
        except Exception as error:
            self.clear()
            if self._model.is_out_of_memory(error):
                raise  # the scheduler frees memory and repeats the step
            # What was not the recording's fault comes again in the usual step.
            logger.warning(
                "CUDA graphs are not used from now on, decoding is slower: %s", first_line(error)
            )
            self._is_on = False
            return None

    def clear(self) -> None:
        """Drop what was recorded, which keeps the KV cache and its own memory allocated."""
        self._steps.clear()
        self._buffers = None

    def _shape(self, slots: KVSlots) -> Shape | None:
        """Return the shape of the next step; None if there is none for it."""
        count, capacity = len(slots.decoding), slots.cache.capacity
        rows = min(_rounded_rows(count), self._max_rows)
        columns = GROWTH
        while columns <= max(len(sequence.tokens) for sequence in slots.decoding):
            columns *= 2
        columns = min(columns, slots.cache.max_capacity)
        room = min(capacity, self._model.context_length)
        if columns > capacity or any(place >= room for place in slots.ends(count, rows)):
            return None
        return rows, columns

    def _run(self, slots: KVSlots, shape: Shape) -> Logits:
        cache, sequences, rows = slots.cache, slots.decoding, shape[0]
        cache.reserve(rows, ())
        if self._buffers is not cache.buffers:
            self._steps.clear()
            self._buffers = cache.buffers
        if shape not in self._steps:
            logger.debug("recording decode steps of %d rows and %d columns", *shape)
            self._steps[shape] = FixedStep(self._model, self._layout, cache, shape, self._graphs)
        spare = slots.ends(len(sequences), rows)
        found = self._steps[shape].run(
            [*(sequence.next_token for sequence in sequences), *[PADDING_TOKEN] * len(spare)],
            [*(len(sequence.tokens) for sequence in sequences), *spare],
        )
        cache.clear_not_finite(found.highest, len(sequences), spare)
        return found.first(len(sequences))


def _rounded_rows(rows: int) -> int:
    return rows if rows <= EXACT_ROWS else -(-rows // ROW_STEP) * ROW_STEP


@torch.inference_mode()
def fixed_step_error(model: TransformersModel, layout: AttentionLayout, graphs: Graphs) -> float:
    """Return how far logits of a replayed step are from those of a usual one, relative to these.

    The second replay has other tokens and lengths than what was recorded.
    """
    cache = SlotCache(layout.layers)
    rows = len(TEST_LENGTHS)
    cache.reserve(rows, [(slot, 0, length + 2) for slot, length in enumerate(TEST_LENGTHS)])
    for slot, length in enumerate(TEST_LENGTHS):
        cache.prefill(slot, 0)
        prompt = torch.arange(1, length + 1, device=model.device)[None]
        model.forward(prompt, prompt - 1, None, cache)
    step = FixedStep(model, layout, cache, (rows, GROWTH), graphs)
    error = 0.0
    for more in range(2):
        tokens = [more + 2] * rows
        lengths = [length + more for length in TEST_LENGTHS]
        right = _usual_logits(model, layout, cache, tokens, lengths).float()
        found = step.run(tokens, lengths).logits.float()
        error = max(error, float((found - right).norm() / right.norm()))
    return error


def _usual_logits(
    model: TransformersModel,
    layout: AttentionLayout,
    cache: SlotCache,
    tokens: list[int],
    lengths: list[int],
) -> torch.Tensor:
    ends, longest = torch.tensor(lengths, device=model.device), max(lengths)
    cache.decode(ends, longest=longest, is_even=False)
    mask = AttentionMasks(layout).decode_mask(ends, longest)
    ids = torch.tensor(tokens, device=model.device)[:, None]
    return model.forward(ids, ends[:, None], mask, cache)[:, -1]
