"""A completion's tokens, one after the other: their text, and which of them ends it."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Protocol

from .answers.logprobs import SampledToken
from .answers.thought_limit import ThoughtLimit
from .request import Request
from .tokenizing.prompt_tokenizer import Tokenizer


class Vocabulary(Protocol):
    """What a completion must know of its model's tokens."""

    markup: Mapping[int, str]  # of special tokens: their text, which no answer shows
    tokenizer: Tokenizer

    @property
    def eos_token_ids(self) -> Container[int]:
        """Return the tokens that end a completion."""

    def create_detokenizer(self) -> Callable[[int], str]:
        """Return a streaming detokenizer: token id in, the text that it completes out."""


class Completion:
    """Emits the text of a request's tokens as they are sampled; for the engine's thread only."""

    def __init__(self, request: Request, vocabulary: Vocabulary) -> None:
        self._request, self._eos_token_ids = request, vocabulary.eos_token_ids
        self._markup, self._detokenize = vocabulary.markup, vocabulary.create_detokenizer()
        most = request.options.get("thinking_tokens")
        self.thought_limit = (
            None if most is None else ThoughtLimit(request, most, vocabulary.tokenizer.tokenize)
        )

    def choose(self, token: int) -> int:
        """Return the token to go on with: the sampled one, or one that ends too long a thought."""
        forced = self.thought_limit.next_forced() if self.thought_limit else None
        return token if forced is None else forced

    def add_token(self, token: int, sampled: SampledToken | None = None) -> bool:
        """Emit a sampled token's text; return whether the token ends the completion.

        One that does has no text, but stop strings may end with its markup. sampled: its log
        probability, if it is wanted.
        """
        request = self._request
        request.completion_tokens += 1
        is_end = token in self._eos_token_ids or token in request.stop_token_ids
        if not is_end:
            request.emit(self._detokenize(token), None if token in self._markup else sampled)
        if token in self._markup:
            request.emit_hidden(self._markup[token])
        if request.constrained is not None:
            is_forced = self.thought_limit is not None and self.thought_limit.is_forcing
            request.constrained.add(token, is_forced=is_forced)
        return is_end
