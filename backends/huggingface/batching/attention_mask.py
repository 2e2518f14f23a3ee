"""Attention masks of batches whose sequences have different lengths.

transformers uses a 4-D mask unchanged. The mask that it would make itself assumes left padding,
with every sequence's newest token in the last column; ours begin at the first column, without
padding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from backends.huggingface.model import AttentionMask
from backends.huggingface.paged.kernels import Attention
from backends.huggingface.paged.paged_cache import PagedCache

from .kv_cache import SlotCache

FULL, SLIDING = "full_attention", "sliding_attention"  # as configurations name them


KVCache = SlotCache | PagedCache


class AttentionLayout(NamedTuple):
    """How a model's layers attend, and in which form they take masks."""

    windows: tuple[int, ...]  # of each layer: the tokens that it attends to, 0 for all
    kinds: frozenset[str]  # FULL, SLIDING or both
    window: int  # tokens that a sliding layer attends to, the token itself included
    mask_dtype: torch.dtype | None  # of additive masks; None: boolean masks
    attention: Attention | None = None  # over a cache in pages, without masks

    def create_cache(self, device: torch.device, context_length: int = 0) -> KVCache:
        """Return an empty KV cache. context_length: more columns are never reserved ahead."""
        if self.attention is None:
            return SlotCache(len(self.windows), context_length=context_length)
        return PagedCache(self.attention, self.windows, device, context_length=context_length)


def attention_layout(config: Any, dtype: torch.dtype) -> AttentionLayout | str:
    """Return the layout of a text model, or the reason why its sequences cannot be batched."""
    implementation = getattr(config, "_attn_implementation", None)
    if implementation not in ("sdpa", "eager"):
        return f"its attention is computed by {implementation}"
    layers = DynamicCache(config=config).layers
    names = {DynamicLayer: FULL, DynamicSlidingWindowLayer: SLIDING}
    unknown = sorted({type(layer).__name__ for layer in layers if type(layer) not in names})
    if unknown or not layers:
        return f"its layers remember in another way ({', '.join(unknown) or 'unknown'})"
    kinds = [names[type(layer)] for layer in layers]
    window = getattr(config, "sliding_window", None) or 0
    return AttentionLayout(
        tuple(window if kind == SLIDING else 0 for kind in kinds),
        frozenset(kinds),
        window,
        dtype if implementation == "eager" else None,
    )


class AttentionMasks:
    """Makes the masks of a model's forward passes."""

    def __init__(self, layout: AttentionLayout) -> None:
        self._layout = layout
        self._columns = torch.arange(0)

    def decode_mask(self, lengths: torch.Tensor, longest: int) -> AttentionMask:
        """Return the mask of a decode step: each new token attends to its own sequence.

        None where the attention takes none.

        lengths: tokens [sequences] before the step, so that the new token's column is the length;
        longest: the largest of them.
        """
        if self._layout.attention:
            return None
        if len(self._columns) <= longest or self._columns.device != lengths.device:
            self._columns = torch.arange(2 * longest + 2, device=lengths.device)
        columns, lengths = self._columns[None, : longest + 1], lengths[:, None]
        visible = columns <= lengths
        return self._by_kind(visible[:, None, None], (columns - lengths)[:, None, None])

    def packed_prefill_mask(self, lengths: list[int], device: torch.device) -> AttentionMask:
        """Return the mask of whole prompts in one row: each token attends to its own prompt."""
        if self._layout.attention:
            return None
        owner = torch.repeat_interleave(torch.tensor(lengths, device=device))
        columns = torch.arange(len(owner), device=device)
        offsets = columns[None] - columns[:, None]
        visible = (owner[None] == owner[:, None]) & (offsets <= 0)
        return self._by_kind(visible[None, None], offsets[None, None])

    def _by_kind(self, visible: torch.Tensor, offsets: torch.Tensor) -> AttentionMask:
        """Return the masks [sequences, 1, tokens, columns], by kind of layer if there are two.

        offsets: of each column from the token's own one; earlier ones are negative.
        """
        kinds = self._layout.kinds
        masks = {}
        if FULL in kinds:
            masks[FULL] = self._convert(visible)
        if SLIDING in kinds:
            masks[SLIDING] = self._convert(visible & (offsets > -self._layout.window))
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _convert(self, visible: torch.Tensor) -> torch.Tensor:
        """Return a boolean mask, or an additive one where the attention takes that."""
        dtype = self._layout.mask_dtype
        if dtype is None:
            return visible
        return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
