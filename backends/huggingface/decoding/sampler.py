"""Sample the next token of each sequence, with the options of transformers' GenerationConfig."""

# The strategy. One maximum over the whole batch gives the token of every greedy sequence, and shows
# NaNs and infinities. Only sequences with penalties or sampling cost more. To sample, the largest
# CANDIDATES logits (or top_k) of all sampling sequences are copied to the CPU in one go, where
# temperature, top_k, top_p and min_p are applied to these few numbers: the library's warpers sort
# the whole vocabulary on the device, once for each sequence. Where the candidates turn out not to
# contain all tokens that the options allow, that sequence samples from the whole vocabulary.

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import transformers

from backends._local.sentences import TRY_DTYPE
from kuwa_min.chat.catalog import OVERFLOWED
from kuwa_min.errors import AnswerError

CANDIDATES = 1024  # tokens considered first where no top_k states a number
DEFAULT_TOP_K = 50  # transformers' own
LEAST_TOP_P = 1e-9  # leaves the likeliest token, as 0 does in the library
TOO_FEW = -1  # instead of a token: the options allow others beside the candidates
HISTORY_GROWTH = 256  # tokens by which the history of penalties grows
NOT_A_NUMBER = OVERFLOWED.format(TRY_DTYPE)


class Logits(NamedTuple):
    """The logits [sequences, vocabulary] of the next tokens, and each row's largest."""

    logits: torch.Tensor
    highest: list[float]
    best: list[int]  # its token

    @classmethod
    def of(cls, logits: torch.Tensor) -> Logits:
        """Find each row's largest: one copy from the device."""
        highest, best = torch.stack([part.double() for part in logits.max(-1)]).tolist()
        return cls(logits, highest, [int(token) for token in best])

    def first(self, count: int) -> Logits:
        """Return the first rows."""
        return Logits(self.logits[:count], self.highest[:count], self.best[:count])


class Sampler:
    """The sampling options, random numbers and token history of one sequence.

    options: every name of the backend's table, with None for transformers' default; prompt_ids: the
    prompt; eos_token_ids: the tokens that end a completion.
    """

    def __init__(
        self, options: Mapping[str, Any], prompt_ids: Sequence[int], eos_token_ids: Sequence[int]
    ) -> None:
        self._penalties = _penalties(options, len(prompt_ids), eos_token_ids)
        history = [prompt_ids if self._penalties else []]
        self._history = torch.tensor(history, dtype=torch.long)  # [1, room]
        self._history_length = self._history.shape[1]
        self.temperature = _or(options["temperature"], 1.0)
        self.do_sample = bool(options["do_sample"] and self.temperature)
        self.is_greedy = not (self.do_sample or self._penalties)
        self.top_k = max(0, int(_or(options["top_k"], DEFAULT_TOP_K)))
        self.top_p = max(LEAST_TOP_P, _or(options["top_p"], 1.0))
        self.min_p = _or(options["min_p"], 0.0)
        self._rare_warpers = _rare_warpers(options) if self.do_sample else []
        self._rng = random.Random(options["seed"])

    def record(self, token: int) -> None:
        """Append a sampled token to the history that penalties look at."""
        if not self._penalties:
            return
        if self._history_length == self._history.shape[1]:
            self._history = torch.nn.functional.pad(self._history, (0, HISTORY_GROWTH))
        self._history[0, self._history_length] = token
        self._history_length += 1

    def apply_penalties(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits [1, vocabulary] after the penalties."""
        if not self._penalties:
            return logits
        history = self._history[:, : self._history_length].to(logits.device)
        return self._penalties(history, logits.float())

    @property
    def candidates(self) -> int:
        """Return how many of the largest logits to consider first; 0 for the whole vocabulary."""
        if self._rare_warpers or not (self.top_k or self.top_p < 1 or self.min_p > 0):
            return 0
        return self.top_k or CANDIDATES

    def random(self) -> float:
        """Return the next random number in [0, 1); the seed determines all of them."""
        return self._rng.random()

    def sample_vocabulary(self, logits: torch.Tensor) -> int:
        """Sample from the whole vocabulary; logits: [1, vocabulary], after the penalties."""
        scores = logits.float() / self.temperature
        for warper in (*_common_warpers(self), *self._rare_warpers):
            scores = warper(None, scores)
        sums = scores[0].double().softmax(-1).cumsum(-1).cpu()
        token = torch.searchsorted(sums, self.random() * sums[-1], right=True)
        return min(int(token), len(sums) - 1)


def sample(found: Logits, samplers: Sequence[Sampler]) -> list[int | Exception]:
    """Return each sequence's next token, or its error."""
    logits, tokens = found.logits, list[int | Exception](found.best)
    penalized: dict[int, torch.Tensor] = {}
    for at, value in enumerate(found.highest):
        if not math.isfinite(value):
            tokens[at] = AnswerError(NOT_A_NUMBER)
        elif not samplers[at].is_greedy:
            try:
                penalized[at] = samplers[at].apply_penalties(logits[at : at + 1])
            except Exception as error:  # noqa: BLE001 - it belongs to this sequence alone
                tokens[at] = error
    with_candidates = {
        at: row
        for at, row in penalized.items()
        if samplers[at].do_sample and samplers[at].candidates
    }
    if with_candidates:
        _sample_candidates(with_candidates, samplers, tokens)
    for at, row in penalized.items():
        if not samplers[at].do_sample:
            tokens[at] = int(row.argmax())
        elif not samplers[at].candidates or tokens[at] == TOO_FEW:
            tokens[at] = samplers[at].sample_vocabulary(row)
    return tokens


def _sample_candidates(
    rows: Mapping[int, torch.Tensor], samplers: Sequence[Sampler], tokens: list[int | Exception]
) -> None:
    """Set the tokens of these rows of logits, to TOO_FEW where the candidates do not suffice."""
    logits = torch.cat(list(rows.values())).float()
    chosen = [samplers[at] for at in rows]
    count = min(max(sampler.candidates for sampler in chosen), logits.shape[-1])
    values, ids = _on_cpu(*logits.topk(count))
    sums, is_enough = _cumulative_weights(logits, values, chosen)
    for row, at in enumerate(rows):
        if not is_enough[row]:
            tokens[at] = TOO_FEW
            continue
        row_sums = sums[row]
        place = bisect.bisect_right(row_sums, samplers[at].random() * row_sums[-1])
        tokens[at] = int(ids[row, min(place, count - 1)])


def _on_cpu(*parts: torch.Tensor) -> torch.Tensor:
    """Copy tensors of equal shapes from the device at once, as 64-bit numbers."""
    return torch.stack([part.double() for part in parts]).cpu()


def _cumulative_weights(
    logits: torch.Tensor, values: torch.Tensor, samplers: Sequence[Sampler]
) -> tuple[list[list[float]], list[bool]]:
    """Return the cumulative weights of each row's candidates, and whether no others are allowed.

    logits: [rows, vocabulary]; values: the candidates' logits [rows, candidates], largest first.
    """
    options = [(one.temperature, one.top_k, one.top_p, one.min_p) for one in samplers]
    temperature, top_k, top_p, min_p = torch.tensor(options, dtype=torch.double).T[:, :, None]
    weights = ((values - values[:, :1]) / temperature).exp()
    has_k = top_k > 0
    weights = weights.where(~has_k | (torch.arange(values.shape[1]) < top_k), 0.0)
    total = weights.sum(-1, keepdim=True)
    if not has_k.all():  # then top_p is a share of the whole vocabulary
        scaled = logits / temperature.to(logits)
        everything = scaled.logsumexp(-1, keepdim=True).cpu().double()
        total = total.where(has_k, (everything - values[:, :1] / temperature).exp())
    sums = weights.cumsum(-1)
    is_enough = has_k | ((top_p < 1) & (sums[:, -1:] >= top_p * total)) | (weights[:, -1:] < min_p)
    kept = (sums - weights < top_p * total) & (weights >= min_p)
    sums = weights.where(kept, 0.0).cumsum(-1)
    return sums.tolist(), is_enough.flatten().tolist()


def _or(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _penalties(
    options: Mapping[str, Any], prompt_length: int, eos_token_ids: Sequence[int]
) -> transformers.LogitsProcessorList:
    """Return the processors that change logits by the token history, in the library's order."""
    chosen = transformers.LogitsProcessorList()
    if _or(options["repetition_penalty"], 1.0) != 1.0:
        chosen.append(transformers.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    if options["no_repeat_ngram_size"]:
        chosen.append(transformers.NoRepeatNGramLogitsProcessor(options["no_repeat_ngram_size"]))
    if options["min_new_tokens"] and eos_token_ids:
        chosen.append(
            transformers.MinNewTokensLengthLogitsProcessor(
                prompt_length, options["min_new_tokens"], list(eos_token_ids)
            )
        )
    return chosen


def _common_warpers(sampler: Sampler) -> list[Any]:
    chosen: list[Any] = []
    if sampler.top_k:
        chosen.append(transformers.TopKLogitsWarper(sampler.top_k))
    if sampler.top_p < 1:
        chosen.append(transformers.TopPLogitsWarper(sampler.top_p))
    if sampler.min_p > 0:
        chosen.append(transformers.MinPLogitsWarper(sampler.min_p))
    return chosen


def _rare_warpers(options: Mapping[str, Any]) -> list[Any]:
    kinds = {
        "typical_p": transformers.TypicalLogitsWarper,
        "epsilon_cutoff": transformers.EpsilonLogitsWarper,
        "eta_cutoff": transformers.EtaLogitsWarper,
    }
    return [kind(options[name]) for name, kind in kinds.items() if 0 < _or(options[name], 0.0) < 1]
