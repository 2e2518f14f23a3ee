"""A llama_batch of a picture's embeddings, which are no tokens of the vocabulary."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import llama_cpp
import numpy

from .media import SECTIONS, MediaPiece


class MediaBatch:
    """The batch of a piece of a picture; `batch` is what llama.cpp reads.

    position: that of the span's first token; wants_logits: after the piece's last token.
    """

    def __init__(self, piece: MediaPiece, *, slot: int, position: int, wants_logits: bool) -> None:
        count = len(piece.embeddings)
        slots = numpy.full(count, slot, numpy.int32)
        wanted = numpy.zeros(count, numpy.int8)
        wanted[-1] = wants_logits
        arrays = {
            "embd": numpy.ascontiguousarray(piece.embeddings, numpy.float32),
            "pos": _positions(piece, position),
            "logits": wanted,
            "n_seq_id": numpy.ones(count, numpy.int32),
            "seq_id": slots.ctypes.data + numpy.arange(count, dtype=numpy.uintp) * slots.itemsize,
        }
        self._referenced = (slots, arrays)
        self.batch = llama_cpp.llama_batch()
        self.batch.n_tokens = count
        types = dict(llama_cpp.llama_batch._fields_)
        for name, array in arrays.items():
            setattr(self.batch, name, ctypes.cast(array.ctypes.data, types[name]))


def _positions(piece: MediaPiece, position: int) -> Any:
    if piece.offsets is None:
        start = position + piece.at
        return numpy.arange(start, start + len(piece.embeddings), dtype=numpy.int32)
    positions = numpy.array(piece.offsets, numpy.int32)
    positions[: SECTIONS - 1] += position
    return positions


@contextlib.contextmanager
def attention(context: Any, *, sees_all: bool) -> Iterator[None]:
    """Compute in this block without a causal mask if sees_all: tokens of a batch see each other.

    context: llama.cpp's pointer.
    """
    if not sees_all:
        yield
        return
    llama_cpp.llama_set_causal_attn(context, False)
    try:
        yield
    finally:
        llama_cpp.llama_set_causal_attn(context, True)
