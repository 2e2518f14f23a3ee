"""Streaming detokenizers: token ids in, one after the other, the text that each completes out."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers.decoders import DecodeStream

Detokenize = Callable[[int], str]
REPLACEMENT = "\ufffd"  # what decoders write for bytes that are not UTF-8


def detokenizer_factory(tokenizer: Any) -> Callable[[], Detokenize]:
    """Return a function that creates a streaming detokenizer for each completion."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    byte_tokens = _byte_tokens(tokenizer, fast.token_to_id if fast else tokenizer.get_vocab().get)

    def create() -> Detokenize:
        stream = SlowDetokenizer(tokenizer) if fast is None else FastDetokenizer(fast)
        return ByteTokenFilter(stream.step, byte_tokens).step if byte_tokens else stream.step

    return create


def _byte_tokens(tokenizer: Any, find: Callable[[str], int | None]) -> dict[int, bytes]:
    """Return the byte of each byte-fallback token; {} for vocabularies without them.

    find: returns a token's id, None for text that is no token.
    """
    letter = find("<0x41>")
    if letter is None or tokenizer.decode([letter]) != "A":
        return {}
    found = ((find(f"<0x{byte:02X}>"), bytes([byte])) for byte in range(256))
    return {token: byte for token, byte in found if token is not None}


class ByteTokenFilter:
    """Replaces invalid UTF-8 among byte-fallback tokens by U+FFFD; passes on all other tokens.

    tokenizers decodes consecutive byte tokens together: all become U+FFFD if one of them is
    invalid, also those whose text a stream has emitted already, and DecodeStream raises then.
    """

    def __init__(self, step: Detokenize, byte_tokens: Mapping[int, bytes]) -> None:
        self._step, self._byte_tokens = step, byte_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held: list[int] = []  # the byte tokens of an incomplete character

    def step(self, token: int) -> str:
        """Return the text that this token completes."""
        byte = self._byte_tokens.get(token)
        if byte is None and not self._held:
            return self._step(token)
        if byte is None:
            self._held.clear()
            return self._decoder.decode(b"", final=True) + self._step(token)
        self._held.append(token)
        text = self._decoder.decode(byte)
        incomplete = len(self._decoder.getstate()[0])
        done = self._held[: len(self._held) - incomplete]
        del self._held[: len(done)]
        return text if REPLACEMENT in text else "".join(map(self._step, done))


class FastDetokenizer:
    """Detokenizes with a tokenizer of the tokenizers library."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream([], skip_special_tokens=True)
        self._held: list[int] = []  # tokens whose text has not been emitted

    def step(self, token: int) -> str:
        """Return the text that this token completes."""
        self._held.append(token)
        try:
            text = self._stream.step(self._tokenizer, token) or ""
        except Exception:  # noqa: BLE001 - this token changes text that was emitted before it
            self._stream = DecodeStream(self._held, skip_special_tokens=True)
            text = self._tokenizer.decode(self._held, skip_special_tokens=True)
        if text:
            self._held = []
        return text


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
        if text.endswith(REPLACEMENT):
            return ""  # an incomplete character: the next token has the rest
        new = text[len(self._text) :]
        self._text = text
        if new.endswith("\n"):  # text before a line's end does not change any more
            self._tokens = [token]
            self._text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        return new
