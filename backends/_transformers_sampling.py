"""Choose the next token of each row: the likeliest one, or one that is drawn.

Options are those of transformers' GenerationConfig. A row without options of its own costs nothing
but its share of one maximum over all rows. A draw looks at the likeliest tokens only, on the
processor: the library's own warpers sort the whole vocabulary on the device for each row.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers

from kuwa_min.errors import AnswerError
from kuwa_min.sentences import OVERFLOWED, TRY_DTYPE

CANDIDATES = 1024  # looked at first when no top_k says how many
MORE = -1  # stands for a token: the likeliest ones were not enough
ROOM = 256  # tokens by which what was said grows
NOT_A_NUMBER = OVERFLOWED.format(TRY_DTYPE)


class Sampler:
    """How one answer's tokens are chosen, and what it has chosen so far.

    options: every name of the backend's table, None for what the model's defaults shall decide;
    prompt: its tokens; ends: the tokens that end an answer.
    """

    def __init__(
        self, options: Mapping[str, Any], prompt: Sequence[int], ends: Sequence[int]
    ) -> None:
        self._penalties = _penalties(options, len(prompt), ends)
        self._tokens = torch.tensor([prompt if self._penalties else []], dtype=torch.long)
        self._count = self._tokens.shape[1]
        self.temperature = _or(options["temperature"], 1.0)
        self.draws = bool(options["do_sample"] and self.temperature)
        self.is_plain = not (self.draws or self._penalties)
        self.top_k = int(_or(options["top_k"], 0))
        self.top_p = _or(options["top_p"], 1.0)
        self.min_p = _or(options["min_p"], 0.0)
        self._rare = _rare_warpers(options) if self.draws else []
        self._dice = random.Random(options["seed"])

    def note(self, token: int) -> None:
        """Remember a token that was chosen, for penalties."""
        if not self._penalties:
            return
        if self._count == self._tokens.shape[1]:
            self._tokens = torch.nn.functional.pad(self._tokens, (0, ROOM))
        self._tokens[0, self._count] = token
        self._count += 1

    def penalise(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits [1, vocabulary] as penalties change them."""
        if not self._penalties:
            return logits
        tokens = self._tokens[:, : self._count].to(logits.device)
        return self._penalties(tokens, logits.float())

    @property
    def wanted(self) -> int:
        """Return how many of the likeliest tokens `draw` looks at; 0 for all."""
        if self._rare or not (self.top_k or self.top_p < 1 or self.min_p > 0):
            return 0
        return self.top_k or CANDIDATES

    def throw(self) -> float:
        """Return a number from 0 up to 1, the same ones in a row for the same seed."""
        return self._dice.random()

    def draw_from_all(self, logits: torch.Tensor) -> int:
        """Draw from the whole vocabulary; logits: [1, vocabulary]."""
        scores = logits.float() / self.temperature
        for warper in (*_common_warpers(self), *self._rare):
            scores = warper(None, scores)
        weights = scores[0].double().softmax(-1).cumsum(-1).cpu()
        place = torch.searchsorted(weights, self.throw() * weights[-1], right=True)
        return min(int(place), len(weights) - 1)


def choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int | Exception]:
    """Return each row's next token, or why it has none; logits: [rows, vocabulary]."""
    highest, best = logits.max(-1)
    found: list[int | Exception] = best.tolist()
    changed: dict[int, torch.Tensor] = {}
    for at, value in enumerate(highest.tolist()):
        if not math.isfinite(value):
            found[at] = AnswerError(NOT_A_NUMBER)
        elif not samplers[at].is_plain:
            try:
                changed[at] = samplers[at].penalise(logits[at : at + 1])
            except Exception as error:  # noqa: BLE001 - it is only this row's
                found[at] = error
    few = {at: one for at, one in changed.items() if samplers[at].draws and samplers[at].wanted}
    if few:
        found = _draw_from_few(few, samplers, found)
    for at, one in changed.items():
        if not samplers[at].draws:
            found[at] = int(one.argmax())
        elif not samplers[at].wanted or found[at] == MORE:
            found[at] = samplers[at].draw_from_all(one)
    return found


def _draw_from_few(
    rows: Mapping[int, torch.Tensor], samplers: Sequence[Sampler], found: list[int | Exception]
) -> list[int | Exception]:
    """Return what was found with these rows' draws in it, MORE for a row that needs more tokens."""
    logits = torch.cat(list(rows.values())).float()
    chosen = [samplers[at] for at in rows]
    most = min(max(sampler.wanted for sampler in chosen), logits.shape[-1])
    values, tokens = (part.cpu() for part in logits.topk(most))
    sums, is_enough = _sums(logits, values.double(), chosen)
    for place, at in enumerate(rows):
        if not is_enough[place]:
            found[at] = MORE
            continue
        upto = sums[place]
        thrown = bisect.bisect_right(upto, samplers[at].throw() * upto[-1])
        found[at] = int(tokens[place, min(thrown, most - 1)])
    return found


def _sums(
    logits: torch.Tensor, values: torch.Tensor, chosen: Sequence[Sampler]
) -> tuple[list[list[float]], list[bool]]:
    """Return running sums of the weights that options leave to the likeliest tokens of each row.

    And whether they leave none to others. values: the likeliest tokens' logits, the highest first.
    """
    options = [(one.temperature, one.top_k, one.top_p, one.min_p) for one in chosen]
    temperature, top_k, top_p, min_p = torch.tensor(options, dtype=torch.double).T[:, :, None]
    weights = ((values - values[:, :1]) / temperature).exp()
    has_k = top_k > 0
    weights = weights.where(~has_k | (torch.arange(values.shape[1]) < top_k), 0.0)
    total = weights.sum(-1, keepdim=True)
    if not has_k.all():  # then the others count, too
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
    options: Mapping[str, Any], prompt_length: int, ends: Sequence[int]
) -> transformers.LogitsProcessorList:
    """Return what changes logits by what was said, in the library's order."""
    chosen = transformers.LogitsProcessorList()
    if _or(options["repetition_penalty"], 1.0) != 1.0:
        chosen.append(transformers.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    if options["no_repeat_ngram_size"]:
        chosen.append(transformers.NoRepeatNGramLogitsProcessor(options["no_repeat_ngram_size"]))
    if options["min_new_tokens"] and ends:
        chosen.append(
            transformers.MinNewTokensLengthLogitsProcessor(
                prompt_length, options["min_new_tokens"], list(ends)
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
