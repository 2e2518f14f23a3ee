"""The logits of a step, and the next tokens that its samplers choose: one copy from the device."""

# The strategy. One maximum over the whole batch gives the token of every greedy sequence, and shows
# NaNs and infinities. Only sequences with penalties or sampling cost more. To sample, the largest
# CANDIDATES logits (or top_k) of all sampling sequences are copied to the CPU, where temperature,
# top_k, top_p and min_p are applied to these few numbers: the library's warpers sort the whole
# vocabulary on the device, once for each sequence. Where the candidates turn out not to contain all
# tokens that the options allow, that sequence samples from the whole vocabulary.
#
# All that is copied is computed before the copy, without waiting for the device: the maxima, the
# candidates, and the tokens that are chosen on the device.

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch

from backends._local.constraints.matcher import MaskPendingError
from backends._local.request import MASK_WAIT
from backends._local.sentences import TRY_DTYPE
from kuwa_min.chat.catalog import OVERFLOWED
from kuwa_min.errors import AnswerError

from .candidates import TOO_FEW, Candidates
from .sampler import Sampler

NOT_A_NUMBER = OVERFLOWED.format(TRY_DTYPE)


class Logits:
    """The logits [sequences, vocabulary] of the next tokens, on the device."""

    highest: list[float]  # each row's largest, set by read()
    best: list[int]  # its token

    def __init__(
        self,
        logits: torch.Tensor,
        maxima: torch.Tensor | None = None,
        copy: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.cpu,
    ) -> None:
        """maxima: maxima_of(logits); copy: waits for the device and copies a tensor from it."""
        self.logits, self._copy = logits, copy
        self._maxima = maxima_of(logits) if maxima is None else maxima

    def read(self, more: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        """Set highest and best; return copies of more tensors, flat, as 64-bit numbers."""
        rest: list[torch.Tensor] = []
        if more:
            parts = [part.double().flatten() for part in (self._maxima, *more)]
            maxima, *rest = self._copy(torch.cat(parts)).split([len(part) for part in parts])
        else:
            maxima = self._copy(self._maxima.flatten())
        self.highest, best = maxima.view(2, -1).tolist()
        self.best = [int(token) for token in best]
        return rest


def maxima_of(logits: torch.Tensor) -> torch.Tensor:
    """Return each row's largest logit and its token, [2, rows], as 64-bit numbers."""
    return torch.stack([part.double() for part in logits.max(-1)])


def sample(found: Logits, samplers: Sequence[Sampler]) -> list[int | Exception]:
    """Return each sequence's next token, or its error; rows behind the samplers' are left out.

    MaskPendingError, for a token whose mask has not come, has a copy of its logits [1, vocabulary].
    """
    deadline = time.monotonic() + MASK_WAIT
    penalized: dict[int, torch.Tensor] = {}
    chosen: dict[int, torch.Tensor] = {}  # tokens, on the device
    errors: dict[int, Exception] = {}
    for at, sampler in enumerate(samplers):
        if sampler.keeps_logits:
            sampler.raw_logits = found.logits[at]
        if sampler.is_greedy:
            continue
        try:
            row = sampler.adjust(found.logits[at : at + 1], deadline)
            if sampler.candidates:
                penalized[at] = row
            else:
                chosen[at] = sampler.choose(row)
        except MaskPendingError as pending:
            errors[at], pending.logits = pending, found.logits[at : at + 1].clone()
        except Exception as error:  # noqa: BLE001 - it belongs to this sequence alone
            errors[at] = error
    candidates = Candidates(list(penalized.values()), [samplers[at] for at in penalized])
    read = found.read([*candidates.results, *chosen.values()])
    count = len(candidates.results)
    tokens = list[int | Exception](found.best[: len(samplers)])
    for at, number in zip(chosen, read[count:], strict=True):
        tokens[at] = int(number)
    for at, token in zip(penalized, candidates.draw(read[:count]), strict=True):
        tokens[at] = int(samplers[at].choose(penalized[at])) if token == TOO_FEW else token
    for at, error in errors.items():
        tokens[at] = error
    return [
        token if math.isfinite(value) else AnswerError(NOT_A_NUMBER)
        for token, value in zip(tokens, found.highest, strict=False)
    ]
