"""Make text of an answer's tokens, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers.decoders import DecodeStream


def create_decoder(tokenizer: Any) -> Callable[[int], str]:
    """Return what gives the text that each token of an answer completes."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return SlowDecoder(tokenizer).step
    stream = DecodeStream([], skip_special_tokens=True)
    return lambda token: stream.step(fast, token) or ""


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
