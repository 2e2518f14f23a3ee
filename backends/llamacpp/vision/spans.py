"""The ids that stand for the tokens of a picture in a sequence, beside those of text.

They are negative, and derived from a hash of the picture: sequences with equal ids hold the same
pictures, so that prefix reuse and parked states need to know nothing of them. A span is the tokens
that llama.cpp encodes at once; large pictures have several of them.
"""

# An id is -1 - v. The first v of a span has the flag START beside 30 bits of the hash, the second
# one says how many tokens and positions there are, all further ones are 30 bits of the hash each.

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

START, WORD = 1 << 30, (1 << 30) - 1
COUNT_BITS = 15
MAX_COUNT = (1 << COUNT_BITS) - 1  # tokens, or positions, of a span
MIN_TOKENS = 2
PICTURE_SHARE = 1 / 4  # of a prompt's tokens, which one picture may have
MIN_HASHED = 6  # tokens; the ids of fewer hold too few bits of a hash: they are random


class Span(NamedTuple):
    """A span of a sequence; start: the index of its first token."""

    start: int
    tokens: int
    positions: int  # that it takes; fewer than tokens in models with M-RoPE

    @property
    def end(self) -> int:
        """Return the index behind its last token."""
        return self.start + self.tokens


def span_ids(content: bytes, tokens: int, positions: int) -> list[int]:
    """Return the ids of a span; content: bytes that are the same for equal spans only.

    Raises ValueError if tokens or positions exceed what the ids can encode.
    """
    if not (MIN_TOKENS <= tokens <= MAX_COUNT and 0 < positions <= MAX_COUNT):
        raise ValueError(f"a picture of {tokens} tokens and {positions} positions")
    if tokens < MIN_HASHED:
        content += os.urandom(32)
    stream = hashlib.shake_256(content).digest(4 * tokens)
    words = [
        int.from_bytes(stream[at : at + 4], "little") & WORD for at in range(0, len(stream), 4)
    ]
    words[0] |= START
    words[1] = tokens << COUNT_BITS | positions
    return [-1 - word for word in words]


def find_spans(ids: Sequence[int]) -> Iterator[Span]:
    """Find the spans in the ids of a sequence; the last one may not be whole."""
    for start in range(len(ids) - 1):
        first, second = -1 - ids[start], -1 - ids[start + 1]
        if first >= START:
            yield Span(start, second >> COUNT_BITS, second & MAX_COUNT)
