"""Follow what transformers' generate() makes, token by token, for a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from ._engine import Request


class Streamer(BaseStreamer):
    """Take the tokens that generate() makes and say their text to a request."""

    def __init__(
        self, request: Request, decode: Callable[[int], str], *, ends: Iterable[int]
    ) -> None:
        self._request, self._decode, self._ends = request, decode, frozenset(ends)
        self._prompt_is_next = True
        self.count, self.ended = 0, False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, which comes first, or a token."""
        if self._prompt_is_next:
            self._prompt_is_next = False
            return
        for token in value.flatten().tolist():
            self.count += 1
            self.ended = self.ended or token in self._ends
            if not self.ended and not self._request.over:
                self._request.say(self._decode(token))

    def end(self) -> None:
        """Leave the end to the engine."""


class UntilOver(StoppingCriteria):
    """Stop generate() when the request is over."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        """Return a true value for every row, which is one."""
        return torch.full((input_ids.shape[0],), self._request.over, device=input_ids.device)


class SlowDecoder:
    """Decode token by token with a tokenizer that has no stream of its own."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._shown = ""

    def step(self, token: int) -> str:
        """Return the text that this token completes."""
        self._tokens.append(token)
        text: str = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        if text.endswith("\ufffd"):
            return ""  # half a character: its rest comes with the next token
        new = text[len(self._shown) :]
        self._shown = text
        if text.endswith("\n"):  # nothing before a line's end changes any more
            self._tokens = [token]
            self._shown = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        return new
