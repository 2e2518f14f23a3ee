"""Say what each row of a batch may look at, when rows are not equally long.

transformers takes a finished mask as it is, but would make a wrong one of these rows: they begin at
the first column, and it takes the last column for every row's newest token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

FULL, SLIDING = "full_attention", "sliding_attention"  # as configurations name them

Mask = torch.Tensor | dict[str, torch.Tensor] | None


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
        kinds = self._layout.kinds
        masks = {}
        if FULL in kinds:
            masks[FULL] = self._form(seen)
        if SLIDING in kinds:
            masks[SLIDING] = self._form(seen & (columns > ends - self._layout.window))
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _form(self, seen: torch.Tensor) -> torch.Tensor:
        """Return the mask [rows, 1, 1, columns] in the form that the attention takes."""
        number = self._layout.number
        if number is not None:
            seen = torch.zeros_like(seen, dtype=number).masked_fill(~seen, torch.finfo(number).min)
        return seen[:, None, None]
