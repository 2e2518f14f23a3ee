"""Sample from the largest logits of each sequence, which is all that is copied from the device."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import torch

from .sampler import Sampler

TOO_FEW = -1  # instead of a token: the options allow others beside the candidates


class Candidates:
    """The candidates of the sequences that sample; none is a valid number of sequences.

    results: tensors on the device, whose values draw() needs.
    """

    def __init__(self, rows: Sequence[torch.Tensor], samplers: Sequence[Sampler]) -> None:
        """Find them; rows: the logits [1, vocabulary] of each sequence, after its penalties."""
        self._samplers = samplers
        self.results: list[torch.Tensor] = []
        if not rows:
            return
        logits = torch.cat(list(rows)).float()
        count = min(max(sampler.candidates for sampler in samplers), logits.shape[-1])
        self.results += logits.topk(count)
        unlimited = [at for at, sampler in enumerate(samplers) if not sampler.top_k]
        if unlimited:  # then top_p is a share of the whole vocabulary
            scaled = [logits[at] / samplers[at].temperature for at in unlimited]
            self.results.append(torch.stack(scaled).logsumexp(-1))
        self._unlimited = unlimited

    def draw(self, results: Sequence[torch.Tensor]) -> list[int]:
        """Return each sequence's token, TOO_FEW where the candidates do not suffice.

        results: copies of what `results` lists, flat, as 64-bit numbers.
        """
        samplers = self._samplers
        if not samplers:
            return []
        values, ids = (one.view(len(samplers), -1) for one in results[:2])
        sums, is_enough = self._cumulative_weights(values, results[2:])
        tokens = []
        for row, sampler in enumerate(samplers):
            if not is_enough[row]:
                tokens.append(TOO_FEW)
                continue
            row_sums = sums[row]
            place = bisect.bisect_right(row_sums, sampler.random() * row_sums[-1])
            tokens.append(int(ids[row, min(place, len(row_sums) - 1)]))
        return tokens

    def _cumulative_weights(
        self, values: torch.Tensor, everything: Sequence[torch.Tensor]
    ) -> tuple[list[list[float]], list[bool]]:
        """Return each row's cumulative weights, and whether no other tokens are allowed.

        values: the candidates' logits [rows, candidates], largest first; everything: the logsumexp
        of all logits, of the rows without top_k.
        """
        options = [(one.temperature, one.top_k, one.top_p, one.min_p) for one in self._samplers]
        temperature, top_k, top_p, min_p = torch.tensor(options, dtype=torch.double).T[:, :, None]
        weights = ((values - values[:, :1]) / temperature).exp()
        has_k = top_k > 0
        weights = weights.where(~has_k | (torch.arange(values.shape[1]) < top_k), 0.0)
        total = weights.sum(-1, keepdim=True)
        for sums in everything:
            likeliest = values[self._unlimited, 0] / temperature[self._unlimited, 0]
            total[self._unlimited, 0] = (sums - likeliest).exp()
        sums = weights.cumsum(-1)
        is_enough = (
            has_k | ((top_p < 1) & (sums[:, -1:] >= top_p * total)) | (weights[:, -1:] < min_p)
        )
        kept = (sums - weights < top_p * total) & (weights >= min_p)
        sums = weights.where(kept, 0.0).cumsum(-1)
        return sums.tolist(), is_enough.flatten().tolist()
