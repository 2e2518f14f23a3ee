"""A tokenizer without a library: single bytes, and control tokens behind them."""

from __future__ import annotations

import re

from backends._local.tokenizing.control_tokens import ControlToken, ControlTokens

BYTES = 256


class ByteTokenizer:
    """Numbers the control tokens from 256 on; all other tokens are bytes."""

    def __init__(self, *texts: str, weightless: str = "") -> None:
        tokens = [ControlToken(BYTES + number, text) for number, text in enumerate(texts)]
        others = [ControlToken(BYTES + len(texts), weightless)] if weightless else []
        self.control_tokens = ControlTokens(tokens, others)
        self._ids = {one.text: one.id for one in (*tokens, *others)}

    def tokenize(self, text: str) -> list[int]:
        """Return bytes and control tokens, the longest first."""
        known = sorted(self._ids, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, known))})", text) if known else [text]
        return [
            token
            for part in parts
            for token in ([self._ids[part]] if part in self._ids else part.encode())
        ]

    def tokenize_ordinary(self, text: str, *, is_first: bool) -> list[int]:
        """Return bytes."""
        return [*text.encode()]

    def token_texts(self) -> list[str]:
        """Return the texts of control tokens: no other one has more than a byte."""
        return [*self._ids]

    def read(self, ids: list[int]) -> str:
        """Return what a model reads, with control tokens in ⟨⟩."""
        texts = {number: f"⟨{text}⟩".encode() for text, number in self._ids.items()}
        return b"".join(texts.get(token) or bytes([token]) for token in ids).decode()
