"""A sequence: a slot of the KV cache, and the request whose tokens are computed in it."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from .answers.logprobs import SampledToken
from .completion import Completion, Vocabulary
from .prefix_match import tick
from .request import Request
from .sentences import CONTEXT_FULL


class TokenSampler(Protocol):
    """What a sequence must know of its sampler."""

    def sampled(self, token: int, count: int) -> SampledToken:
        """Return the log probability of the token that was chosen, and the `count` likeliest.

        They are those of the logits as the model computed them.
        """


SamplerT = TypeVar("SamplerT", bound=TokenSampler | None)


class ModelInfo(Vocabulary, Protocol):
    """What a sequence must know of its model."""

    context_length: int  # tokens of prompt and completion together

    def max_completion_tokens(self, request: Request) -> int:
        """Return how many tokens of a completion the context has room for."""


class Sequence(Generic[SamplerT]):
    """A slot of the KV cache, and the request whose tokens are computed in it.

    Lives as long as its slot: begin() gives it a request, then it is prefilled in chunks up to
    is_prefilled, then add_token() takes each sampled token, then release() makes it idle. An idle
    sequence keeps its tokens for prefix reuse. For the engine's thread only.
    """

    request: Request
    sampler: SamplerT
    prefill_ids: list[int]  # to be computed before the next token is sampled; `tokens` are a prefix
    next_token: int  # the token sampled last, to be computed by the next decode step
    held: Any  # logits to sample the next token from once its mask has come; None: no wait

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.tokens: list[int] = []  # computed: their keys and values are in the slot
        self.adapters = ""  # with which they were
        self.is_idle = True
        self.last_used, self.prompt_length, self.held = 0, 0, None

    def begin(
        self,
        request: Request,
        model: ModelInfo,
        sampler: SamplerT,
        *,
        cached: int,
        max_new_tokens: int | None,
    ) -> None:
        """Begin with a request, of whose prompt the slot holds the first `cached` tokens.

        max_new_tokens: of the completion; None for as many as the context has room for.
        """
        self.tokens, self.is_idle = request.prompt_ids[:cached], False
        self.adapters = request.adapters
        self.request, self.sampler, self.prefill_ids = request, sampler, request.prompt_ids
        self.prompt_length = len(request.prompt_ids)
        request.cached_tokens = cached
        self._context_length, self._completion = model.context_length, Completion(request, model)
        room = model.max_completion_tokens(request)
        self._max_new_tokens = room if max_new_tokens is None else min(max_new_tokens, room)
        self._limited_by_context = max_new_tokens is None or room < max_new_tokens

    def release(self) -> None:
        """Make the slot idle; its tokens stay for prefix reuse."""
        self.is_idle, self.last_used, self.held = True, tick(), None

    # -- prefill

    @property
    def is_prefilled(self) -> bool:
        """Tell whether the next token can be sampled from the last chunk's logits."""
        return self.remaining <= 0

    @property
    def remaining(self) -> int:
        """Return how many tokens are left to prefill."""
        return len(self.prefill_ids) - len(self.tokens)

    def next_chunk(self, size: int) -> list[int]:
        """Return the next tokens to prefill, `size` at most."""
        done = len(self.tokens)
        return self.prefill_ids[done : done + size]

    def restart_prefill(self, kept: int) -> None:
        """Prefill prompt and completion again, because the slot lost all but `kept` tokens."""
        sampled = [self.next_token] if self.held is None else []
        self.prefill_ids, self.held = [*self.tokens, *sampled], None
        self.tokens = self.tokens[:kept]

    # -- decode

    def add_token(self, token: int) -> bool:
        """Emit a sampled token's text; finish the request and return true if it is the last.

        The token that ends a thought that is too long takes its place.
        """
        request, token = self.request, self._completion.choose(token)
        if self._completion.add_token(token, self._sampled(token)):
            request.finish()
            return True
        self.next_token = token
        request.is_cut = request.completion_tokens >= self._max_new_tokens
        if not request.is_cut and not request.should_stop:
            return False
        if self._limited_by_context and request.is_cut:
            request.add_side_note(CONTEXT_FULL.format(self._context_length))
        request.finish()
        return True

    def _sampled(self, token: int) -> SampledToken | None:
        """Return a token's log probability, if it is wanted: of an answer, not of a thought."""
        request, sampler = self.request, self.sampler
        if request.logprobs is None or sampler is None or request.is_thinking:
            return None
        return sampler.sampled(token, request.logprobs.count)
