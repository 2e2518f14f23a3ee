"""Say what each row of a batch may look at, when rows are not equally long.

transformers takes a finished mask as it is, but would make a wrong one of these rows: they begin at
the first column, and it takes the last column for every row's newest token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ._transformers_model import Mask

FULL, SLIDING = "full_attention", "sliding_attention"  # as configurations name them


class Layout(NamedTuple):
    """What a model's layers remember, and in which form they take masks."""

    layers: int
    kinds: frozenset[str]  # FULL, SLIDING or both
    window: int  # tokens that a sliding layer sees, its own one included
    number: torch.dtype | None  # for masks that are added; None: true and false


def layout_of(config: Any, number: torch.dtype) -> Layout | str:
    """Return how a text model's layers can be batched, or why they cannot."""
    implementation = getattr(config, "_attn_implementation", None)
    if implementation not in ("sdpa", "eager"):
        return f"its attention is computed by {implementation}"
    layers = DynamicCache(config=config).layers
    names = {DynamicLayer: FULL, DynamicSlidingWindowLayer: SLIDING}
    strange = sorted({type(layer).__name__ for layer in layers if type(layer) not in names})
    if strange or not layers:
        return f"its layers remember in another way ({', '.join(strange) or 'unknown'})"
    return Layout(
        len(layers),
        frozenset(names[type(layer)] for layer in layers),
        getattr(config, "sliding_window", None) or 0,
        number if implementation == "eager" else None,
    )


class Masks:
    """Makes the masks of a model."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._columns = torch.arange(0)

    def until(self, ends: torch.Tensor, longest: int) -> Mask:
        """Return what lets each row look at its columns up to its end.

        ends: the column of each row's newest token; longest: the last of them.
        """
        if len(self._columns) <= longest or self._columns.device != ends.device:
            self._columns = torch.arange(2 * longest + 2, device=ends.device)
        columns, ends = self._columns[None, : longest + 1], ends[:, None]
        seen = columns <= ends
        return self._by_kind(seen[:, None, None], (columns - ends)[:, None, None])

    def packed(self, lengths: list[int], device: torch.device) -> Mask:
        """Return what lets each token look at its own prompt, of those that are read as one."""
        owner = torch.repeat_interleave(torch.tensor(lengths, device=device))
        place = torch.arange(len(owner), device=device)
        distance = place[None] - place[:, None]
        seen = (owner[None] == owner[:, None]) & (distance <= 0)
        return self._by_kind(seen[None, None], distance[None, None])

    def _by_kind(self, seen: torch.Tensor, distance: torch.Tensor) -> Mask:
        """Return masks [rows, 1, tokens, columns], by kind of layer if there are several.

        distance: of each column from the token's own one; those before are negative.
        """
        kinds = self._layout.kinds
        masks = {}
        if FULL in kinds:
            masks[FULL] = self._form(seen)
        if SLIDING in kinds:
            masks[SLIDING] = self._form(seen & (distance > -self._layout.window))
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _form(self, seen: torch.Tensor) -> torch.Tensor:
        """Return a mask in the form that the attention takes."""
        number = self._layout.number
        if number is None:
            return seen
        return torch.zeros_like(seen, dtype=number).masked_fill(~seen, torch.finfo(number).min)
