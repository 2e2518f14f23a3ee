"""Log probabilities of tokens as answers of /v1 have them. No I/O.

Facts about the protocol:
- A chat names each token with its bytes; a token that is not UTF-8 by itself has them as its text,
  too. A completion has a list for each fact, and the sampled token among the likeliest.
- JSON has no infinity: what is as good as impossible has -9999.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kuwa_min.chat.chunks import TokenLogprob
from kuwa_min.chat.text import Utf8Decoder

IMPOSSIBLE = -9999.0


class ChatLogprobs:
    """Encodes the log probabilities of a chat's tokens: add() them, then take() the object."""

    def __init__(self) -> None:
        self._tokens: list[TokenLogprob] = []

    def add(self, tokens: Sequence[TokenLogprob]) -> None:
        """Add the tokens of text that is sent next."""
        self._tokens += tokens

    def take(self) -> dict[str, Any] | None:
        """Return what was added since the last call; None for nothing."""
        tokens, self._tokens = self._tokens, []
        return self._object(tokens) if tokens else None

    def _object(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        content = [
            {
                **_named(one.data, one.logprob),
                "top_logprobs": [_named(*other) for other in one.alternatives],
            }
            for one in tokens
        ]
        return {"content": content, "refusal": None}


class TextLogprobs(ChatLogprobs):
    """The same of a completion, as lists; offsets are in characters of its text."""

    def __init__(self) -> None:
        super().__init__()
        self._offset, self._decoder = 0, Utf8Decoder()

    def _object(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets, wants_top = [], any(one.alternatives for one in tokens)
        for one in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.feed(one.data))
        likeliest = [
            {_text(data): _finite(value) for data, value in (*one.alternatives, one[:2])}
            for one in tokens
        ]
        return {
            "tokens": [_text(one.data) for one in tokens],
            "token_logprobs": [_finite(one.logprob) for one in tokens],
            "top_logprobs": likeliest if wants_top else None,
            "text_offset": offsets,
        }


def _named(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(data), "logprob": _finite(logprob), "bytes": list(data)}


def _text(data: bytes) -> str:
    """Return a token's text; of one that is a part of a character, its bytes in hex."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else IMPOSSIBLE
