"""The sampler of one sequence, with the options of transformers' GenerationConfig."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers

from backends._local.answers.logprobs import SampledToken

CANDIDATES = 1024  # tokens considered first where no top_k states a number
DEFAULT_TOP_K = 50  # transformers' own
LEAST_TOP_P = 1e-9  # leaves the likeliest token, as 0 does in the library
# The bits of each byte, the lowest first: bool [256, 8].
BITS = torch.tensor([[bool(byte >> bit & 1) for bit in range(8)] for byte in range(256)])
HISTORY_GROWTH = 256  # tokens by which the history of penalties grows


class Sampler:
    """The sampling options, random numbers and token history of one sequence.

    options: every name of the backend's table, with None for transformers' default; prompt_ids: the
    prompt; eos_token_ids: the tokens that end a completion; device: of the logits, where the
    history is kept, so that no step copies it there; allowed: called with a deadline of
    time.monotonic(), returns the mask of the next token, a bit each, None if all are allowed;
    keeps_logits: whether sample() sets raw_logits, for sampled().
    """

    raw_logits: torch.Tensor  # [vocabulary], of the token that is sampled, before adjust()

    def __init__(
        self,
        options: Mapping[str, Any],
        prompt_ids: Sequence[int],
        eos_token_ids: Sequence[int],
        device: torch.device | str = "cpu",
        allowed: Callable[[float], bytearray | None] | None = None,
        *,
        keeps_logits: bool = False,
    ) -> None:
        self._allowed, self.keeps_logits = allowed, keeps_logits
        self._penalties = _penalties(options, len(prompt_ids), eos_token_ids, device)
        history = [prompt_ids if self._penalties else []]
        self._history = torch.tensor(history, dtype=torch.long, device=device)  # [1, room]
        self._history_length = self._history.shape[1]
        self.temperature = _or(options["temperature"], 1.0)
        self.do_sample = bool(options["do_sample"] and self.temperature)
        self.is_greedy = not (self.do_sample or self._penalties or allowed)
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
        self._history[0, self._history_length].fill_(token)  # which copies nothing to a GPU
        self._history_length += 1

    def adjust(self, logits: torch.Tensor, deadline: float = math.inf) -> torch.Tensor:
        """Return the logits [1, vocabulary] after the penalties; those that are not allowed: -inf.

        deadline: of time.monotonic(). Raises AnswerError, and MaskPendingError if the mask is not
        known by then.
        """
        mask = self._allowed(deadline) if self._allowed else None
        if self._penalties:
            history = self._history[:, : self._history_length].to(logits.device)
            logits = self._penalties(history, logits.float())
        return logits if mask is None else mask_logits(logits, mask)

    @property
    def candidates(self) -> int:
        """Return how many of the largest logits to sample from; 0 where choose() is needed."""
        if not self.do_sample:
            return 0
        if self._rare_warpers or not (self.top_k or self.top_p < 1 or self.min_p > 0):
            return 0
        return self.top_k or CANDIDATES

    def random(self) -> float:
        """Return the next random number in [0, 1); the seed determines all of them."""
        return self._rng.random()

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Choose from the whole vocabulary, on the device: a token as a tensor of one number.

        logits: [1, vocabulary], after the penalties.
        """
        if not self.do_sample:
            return logits.argmax()
        scores = logits.float() / self.temperature
        for warper in (*_common_warpers(self), *self._rare_warpers):
            scores = warper(None, scores)
        sums = scores[0].double().softmax(-1).cumsum(-1)
        token = torch.searchsorted(sums, self.random() * sums[-1:], right=True)
        return token.clamp(max=len(sums) - 1)

    def sampled(self, token: int, count: int) -> SampledToken:
        """Return the log probability of the chosen token, and those of the `count` likeliest.

        Call it before the next step, which may overwrite the logits.
        """
        logprobs = self.raw_logits.float().log_softmax(-1)
        top = logprobs.topk(min(count, len(logprobs)))
        own, *values = torch.cat([logprobs[token : token + 1], top.values]).tolist()
        return SampledToken(token, own, [*zip(top.indices.tolist(), values, strict=True)])


def mask_logits(logits: torch.Tensor, mask: bytearray) -> torch.Tensor:
    """Return logits [1, vocabulary] with -inf where a mask, a bit a token, does not allow it."""
    bits = BITS[torch.frombuffer(mask, dtype=torch.uint8).long()].flatten()
    is_allowed = torch.zeros(logits.shape[-1], dtype=torch.bool)
    is_allowed[: len(bits)] = bits[: len(is_allowed)]
    is_hidden = ~is_allowed.to(logits.device)
    masked = logits.masked_fill(is_hidden, -math.inf)
    if masked.max() > -math.inf:
        return masked
    return torch.zeros_like(logits).masked_fill(is_hidden, -math.inf)  # penalties made all -inf


def _or(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _penalties(
    options: Mapping[str, Any],
    prompt_length: int,
    eos_token_ids: Sequence[int],
    device: torch.device | str,
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
                prompt_length,
                options["min_new_tokens"],
                list(eos_token_ids),
                device=str(device),
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
