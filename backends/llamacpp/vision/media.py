"""What pictures are to a language model: embeddings, and where they belong."""

from __future__ import annotations

from typing import Any, NamedTuple

from .spans import Span

SECTIONS = 4  # positions of an embedding with M-RoPE, of which the last one counts from 0


class Encoded(NamedTuple):
    """What a span of a picture is to the language model; see MediaPiece."""

    ids: list[int]
    embeddings: Any
    offsets: Any
    sees_all: bool


class MediaPiece(NamedTuple):
    """Embeddings of a span, or of a part of it.

    embeddings: float32 [tokens, width]; offsets: int32 [SECTIONS, tokens] of M-RoPE's positions
    from that of the span, None without M-RoPE; sees_all: its tokens see each other, so that it must
    be the whole span; span: with `start` as in the sequence; at: of the span's tokens, the first.
    """

    embeddings: Any
    offsets: Any
    sees_all: bool
    span: Span
    at: int
