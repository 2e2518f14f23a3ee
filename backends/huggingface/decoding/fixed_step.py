"""Decode steps of fixed shapes, which a GPU replays without waiting for the interpreter."""

# The strategy. A decode step launches more than a thousand kernels, and the interpreter takes
# longer to launch them than the GPU to run them. A CUDA graph launches all of them at once, if the
# same kernels work on the same memory each time. So a step of fixed shape:
#
# - has tokens and lengths in tensors of its own, which one copy fills. Lengths are data: where a
#   row is written and what its mask hides follows from them on the GPU.
# - reads a fixed number of columns, one of BUCKETS between two powers of two, however long the
#   sequences are: the mask hides the rest.
# - has as many rows as there are sequences up to EXACT_ROWS, then a multiple of ROW_STEP. A row
#   too many computes a token behind what its slot holds, where the next token of that slot will
#   overwrite it.
# - finds the likeliest token of each row on the GPU. One copy brings them back, together with what
#   the sequences need that sample or have penalties, and is the only wait of the step.
#
# A shape is recorded when it occurs for the third time. The recordings hold addresses of the KV
# cache: they are dropped when its buffers move. So all slots are reserved before the first one, as
# far as memory is free, and columns are doubled. The first failure turns all of this off, and every
# step is computed kernel by kernel from then on, as on a processor.

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import torch

from backends.huggingface.batching.attention_mask import AttentionLayout, AttentionMasks, KVCache
from backends.huggingface.batching.kv_slots import KVSlots
from backends.huggingface.batching.slot_layer import GROWTH
from backends.huggingface.device.errors import first_line
from backends.huggingface.model import TransformersModel

from .logits import Logits, maxima_of, sample

logger = logging.getLogger(__name__)

RECORDED_AT = 3  # occurrences of a shape: a prompt that is answered shortly is not worth it
EXACT_ROWS, ROW_STEP = 8, 4
# Bounds what is read in vain to a quarter; twice as many would save a few percent of a long chat's
# step, and cost as many recordings, each of which takes as long as five steps.
BUCKETS = 4
MAX_RECORDED = 32  # steps that are kept: each takes memory of the GPU
PINNED = 4096  # numbers of the smallest memory for what comes back from the GPU
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
        cache: KVCache,
        shape: Shape,
        graphs: Graphs,
        outbox: Outbox,
    ) -> None:
        rows, self._columns = shape
        self._model, self._cache, self._graphs = model, cache, graphs
        self._outbox = outbox
        self._masks = AttentionMasks(layout)  # of its own: it keeps tensors that are recorded
        width = 2 + len(cache.table(0, rows, self._columns))
        self._inbox = graphs.pinned(width, rows, dtype=torch.long)
        self._inputs = torch.zeros(width, rows, dtype=torch.long, device=model.device)
        self._replay: Callable[[], None] | None = None  # recorded by the first run

    def _compute(self) -> None:
        tokens, lengths = self._inputs[:2]
        longest = self._columns - 1
        self._cache.decode(lengths, longest=longest, is_even=False, tables=self._inputs[2:])
        mask = self._masks.decode_mask(lengths, longest)
        logits = self._model.forward(tokens[:, None], lengths[:, None], mask, self._cache)
        self._logits = logits[:, -1]
        self._maxima = maxima_of(self._logits)

    def run(self, slots: int, tokens: list[int], lengths: list[int]) -> Logits:
        """Begin to compute the logits after one more token of each row; valid until the next run.

        They must be read before it. slots: rows that are slots of the cache; lengths: tokens of
        each row before the step.
        """
        table = self._cache.table(slots, len(tokens), self._columns)
        self._inbox.copy_(torch.tensor([tokens, lengths, *table]))
        self._inputs.copy_(self._inbox, non_blocking=True)
        if self._replay is None:  # it writes to the cache, so it must have its values by now
            self._replay = self._graphs.record(self._compute)
        self._replay()
        return Logits(self._logits, self._maxima, self._outbox.copy)


class Outbox:
    """Memory of the machine, which the device copies to by itself."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._memory = torch.zeros(0)

    def copy(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return a copy of 64-bit numbers once the device has computed them; until the next one."""
        count = len(numbers)
        if len(self._memory) < count:
            size = max(PINNED, 2 * count)
            self._memory = self._graphs.pinned(size, dtype=torch.double)
        self._memory[:count].copy_(numbers, non_blocking=True)
        self._graphs.synchronize()
        return self._memory[:count]


class DecodeSteps:
    """The fixed steps of a scheduler. For the engine's thread."""

    def __init__(
        self, model: TransformersModel, layout: AttentionLayout, max_rows: int, graphs: Graphs
    ) -> None:
        self._model, self._layout, self._max_rows, self._graphs = model, layout, max_rows, graphs
        self._outbox = Outbox(graphs)
        self._seen: Counter[Shape] = Counter()
        self._steps: dict[Shape, FixedStep] = {}
        self._buffers: object = None  # of the cache when the steps were recorded
        self._is_on = True

    def run(self, slots: KVSlots) -> list[int | Exception] | None:
        """Return the tokens of the next decode step; None if it must be computed another way.

        The cache must have room for the step. Raises DeviceLost, and the error if memory ran out.
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
            self._model.check_device(error)
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
        longest = max(len(sequence.tokens) for sequence in slots.decoding)
        columns = min(_rounded_columns(longest + 1), capacity)
        room = min(capacity, self._model.context_length)
        if any(place >= room for place in slots.padding_ends(count, rows)):
            return None
        return rows, columns

    def _run(self, slots: KVSlots, shape: Shape) -> list[int | Exception]:
        cache, sequences, rows = slots.cache, slots.decoding, shape[0]
        cache.reserve(rows, ())
        if self._buffers is not cache.buffers:
            self._steps.clear()
            cache.reserve_ahead(self._max_rows)
            self._buffers = cache.buffers
        spare = slots.padding_ends(len(sequences), rows)
        found = self._step(cache, shape).run(
            len(sequences),
            [*(sequence.next_token for sequence in sequences), *[PADDING_TOKEN] * len(spare)],
            [*(len(sequence.tokens) for sequence in sequences), *spare],
        )
        tokens = sample(found, [sequence.sampler for sequence in sequences])
        cache.clear_not_finite(found.highest, len(sequences), spare)
        return tokens

    def _step(self, cache: KVCache, shape: Shape) -> FixedStep:
        """Return the step of a shape, a new one if it has none; drop the one unused longest."""
        step = self._steps.pop(shape, None)
        if step is None:
            logger.debug("recording decode steps of %d rows and %d columns", *shape)
            while len(self._steps) >= MAX_RECORDED:
                del self._steps[next(iter(self._steps))]
            step = FixedStep(self._model, self._layout, cache, shape, self._graphs, self._outbox)
        self._steps[shape] = step  # behind those that were not used since
        return step


def _rounded_rows(rows: int) -> int:
    return rows if rows <= EXACT_ROWS else -(-rows // ROW_STEP) * ROW_STEP


def _rounded_columns(columns: int) -> int:
    """Round up to a multiple of GROWTH that divides the next power of two into BUCKETS halves."""
    power = 1 << (columns - 1).bit_length()
    step = max(GROWTH, power // (2 * BUCKETS))
    return -(-columns // step) * step


@torch.inference_mode()
def fixed_step_error(model: TransformersModel, layout: AttentionLayout, graphs: Graphs) -> float:
    """Return how far logits of a replayed step are from those of a usual one, relative to these.

    The second replay has other tokens and lengths than what was recorded.
    """
    cache = layout.create_cache(model.device)
    rows = len(TEST_LENGTHS)
    for slot, length in enumerate(TEST_LENGTHS):
        cache.reserve(rows, [(slot, 0, length)])
        cache.prefill(slot, 0)
        prompt = torch.arange(1, length + 1, device=model.device)[None]
        model.forward(prompt, prompt - 1, None, cache)
    step = FixedStep(model, layout, cache, (rows, GROWTH), graphs, Outbox(graphs))
    error = 0.0
    for more in range(2):
        tokens = [more + 2] * rows
        lengths = [length + more for length in TEST_LENGTHS]
        cache.reserve(rows, [(slot, end, end + 1) for slot, end in enumerate(lengths)])
        right = _usual_logits(model, layout, cache, tokens, lengths).float()
        found = step.run(rows, tokens, lengths).logits.float()
        error = max(error, float((found - right).norm() / right.norm()))
    return error


def _usual_logits(
    model: TransformersModel,
    layout: AttentionLayout,
    cache: KVCache,
    tokens: list[int],
    lengths: list[int],
) -> torch.Tensor:
    ends, longest = torch.tensor(lengths, device=model.device), max(lengths)
    cache.decode(ends, longest=longest, is_even=False)
    mask = AttentionMasks(layout).decode_mask(ends, longest)
    ids = torch.tensor(tokens, device=model.device)[:, None]
    return model.forward(ids, ends[:, None], mask, cache)[:, -1]
