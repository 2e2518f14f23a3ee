"""Streaming detokenizers: token ids in, one after the other, the text that each completes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers.decoders import DecodeStream


def create_detokenizer(tokenizer: Any) -> Callable[[int], str]:
    """Return a streaming detokenizer: token id in, the text that it completes out."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return SlowDetokenizer(tokenizer).step
    stream = DecodeStream([], skip_special_tokens=True)
    return lambda token: stream.step(fast, token) or ""


class SlowDetokenizer:
    """Detokenizes with a slow tokenizer, which has no stream: decodes the last line each time."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._text = ""

    def step(self, token: int) -> str:
        """Return the text that this token completes."""
        self._tokens.append(token)
        text: str = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        if text.endswith("\ufffd"):
            return ""  # an incomplete character: the next token has the rest
        new = text[len(self._text) :]
        self._text = text
        if text.endswith("\n"):  # text before a line's end does not change any more
            self._tokens = [token]
            self._text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        return new
