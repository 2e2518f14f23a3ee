"""The attention function that transformers calls where the KV cache has pages."""

from __future__ import annotations

import threading
from typing import Any

import torch
from transformers import AttentionInterface

from .kernels import Attention

NAME = "kuwa_pages"  # by which transformers knows the function
MEANINGFUL = ("softcap", "s_aux", "position_bias", "head_mask")  # what the kernel cannot compute


class Pass:
    """What the tokens of a forward pass attend to; the tensors are int32, on the model's device."""

    def __init__(
        self,
        attention: Attention,
        windows: tuple[int, ...],
        *,
        starts: torch.Tensor,
        lengths: torch.Tensor,
        tables: torch.Tensor,
        max_tokens: int,
        max_length: int,
    ) -> None:
        """Describe a pass.

        windows: of each layer, 0 for all; starts: where each sequence's new tokens begin, and the
        end; lengths: tokens of each sequence behind the pass; tables: its pages; max_tokens: new
        ones of a sequence, at most; max_length: the largest length, at least.
        """
        self._attention, self._windows = attention, windows
        self._starts, self._lengths, self._tables = starts, lengths, tables
        self._max_tokens, self._max_length = max_tokens, max_length
        self._sums = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))

    def window(self, layer: int) -> int:
        """Return the tokens that a token of this layer attends to, itself included; 0 for all."""
        return self._windows[layer]

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float | None,
        window: int,
    ) -> torch.Tensor:
        """Return [tokens, heads, size]; key, value: the pages of a layer."""
        before = window - 1 if 0 < window < self._max_length else -1
        # A single token is the last: it attends to all. The kernel is faster without a bound.
        behind = -1 if before < 0 and self._max_tokens == 1 else 0
        return self._attention(
            *(query, key, value, self._starts, self._sums, self._max_tokens, self._max_length),
            scale=scale,
            window_size=(before, behind),
            enable_gqa=True,
            seqused_k=self._lengths,
            block_table=self._tables,
        )


class _Current(threading.local):
    """The pass that a thread computes; a layer of the cache sets it, right before attend()."""

    value: Pass


current = _Current()


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute a layer's attention, as transformers calls it; key and value are the cache's pages.

    query: [rows, heads, tokens, size]; returns [rows, tokens, heads, size]. Raises ValueError for
    what the kernel does not compute.
    """
    found = current.value
    window = found.window(int(module.layer_idx))  # type: ignore[arg-type]
    if not (is_causal if is_causal is not None else getattr(module, "is_causal", True)):
        raise ValueError("its tokens attend to later ones")
    if (sliding_window or 0) != window:
        raise ValueError("its windows are not those of its configuration")
    given = {"attention_mask": attention_mask, **options}
    refused = [name for name in ("attention_mask", *MEANINGFUL) if given.get(name) is not None]
    if refused:
        raise ValueError(f"its attention has {', '.join(refused)}")
    if key.shape != value.shape:
        raise ValueError("its keys and values have different sizes")
    rows, heads, tokens, size = query.shape
    flat = query.transpose(1, 2).reshape(rows * tokens, heads, size)
    result = found.attend(flat, key, value, scale=scaling, window=window)
    return result.view(rows, tokens, heads, size), None


AttentionInterface.register(NAME, attend)
