"""A greedy decode step of transformers' own static cache, replayed as a CUDA graph.

What a GPU can do when nothing waits for the interpreter: the least that a step of this model costs.
On a processor, which has no graphs, the same step is computed each time.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers

WARM_UPS = 3  # of a computation before it is recorded, on a stream of its own, as torch wants it


class GraphedStep:
    """A model's steps for a number of rows, each of at most `columns` tokens of equal count."""

    def __init__(self, model: Any, rows: int, columns: int) -> None:
        self._model, device = model, model.device
        self._cache = transformers.StaticCache(config=model.config, max_cache_len=columns)
        self._columns = torch.arange(columns, device=device)
        self._tokens = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._positions = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.prefill(self._tokens.clone())  # the cache makes its buffers
        self._replay = self._recorded() if device.type == "cuda" else self._compute

    def prefill(self, tokens: Any) -> list[int]:
        """Begin anew with prompts, a row each; return their next tokens."""
        self._cache.reset()
        self._positions.fill_(tokens.shape[1])
        self._choose(tokens)
        return self._next_tokens()

    def decode(self) -> list[int]:
        """Return the next tokens of all rows."""
        self._replay()
        return self._next_tokens()

    def _next_tokens(self) -> list[int]:
        return [int(token) for token in self._tokens.flatten().tolist()]

    def _compute(self) -> None:
        mask = (self._columns <= self._positions)[:, None, None]
        self._choose(self._tokens, position_ids=self._positions, attention_mask=mask)
        self._positions.add_(1)

    def _choose(self, tokens: Any, **more: Any) -> None:
        logits = self._model(
            tokens, cache=self._cache, use_cache=True, logits_to_keep=1, **more
        ).logits
        self._tokens.copy_(logits[:, -1].argmax(-1, keepdim=True))

    def _recorded(self) -> Callable[[], None]:
        """Return what replays the step; prefill() puts right what recording changed."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._compute()
        return graph.replay
