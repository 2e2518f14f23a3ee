"""Encoded pictures as a language model takes them: embeddings and their positions."""

from __future__ import annotations

from typing import Any, NamedTuple

from .spans import Span

SECTIONS = 4  # positions of an embedding with M-RoPE, of which the last one counts from 0


class Encoded(NamedTuple):
    """An encoded span of a picture, with its ids; the other fields are as in MediaPiece."""

    ids: list[int]
    embeddings: Any
    offsets: Any
    sees_all: bool


class MediaPiece(NamedTuple):
    """The embeddings of a span, or of a part of it.

    embeddings: float32 [tokens, width]; offsets: int32 [SECTIONS, tokens], M-RoPE's positions from
    that of the span, None without M-RoPE; sees_all: its tokens see each other, so that it must be
    the whole span; span: with `start` as in the sequence; at: the index in the span of the piece's
    first token.
    """

    embeddings: Any
    offsets: Any
    sees_all: bool
    span: Span
    at: int
