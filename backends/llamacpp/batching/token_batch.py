"""The arrays of a llama_batch, which every decode() fills anew."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import llama_cpp
import numpy

from backends.llamacpp.vision.media import MediaPiece


class SequenceChunk(NamedTuple):
    """The next tokens of a slot's sequence in a batch.

    media: the embeddings that the tokens stand for, if they are a picture's; such a chunk is
    computed by itself.
    """

    slot: int
    tokens: list[int]
    wants_logits: bool  # after the last token
    media: MediaPiece | None = None


class TokenBatch:
    """A llama_batch with room for `size` tokens; `batch` is what llama.cpp reads."""

    def __init__(self, size: int) -> None:
        self._tokens, self._positions, self._slots, ones = (
            numpy.zeros(size, numpy.int32) for _ in range(4)
        )
        ones[:] = 1
        self._wants_logits = numpy.zeros(size, numpy.int8)
        offsets = numpy.arange(size, dtype=numpy.uintp) * 4
        slot_pointers = self._slots.ctypes.data + offsets
        self._referenced = (ones, slot_pointers)
        arrays = {
            "token": self._tokens,
            "pos": self._positions,
            "logits": self._wants_logits,
            "n_seq_id": ones,
            "seq_id": slot_pointers,
        }
        types = dict(llama_cpp.llama_batch._fields_)
        self.batch = llama_cpp.llama_batch()
        for name, array in arrays.items():
            setattr(self.batch, name, ctypes.cast(array.ctypes.data, types[name]))

    def fill(self, chunks: Sequence[SequenceChunk], starts: Sequence[int]) -> list[int]:
        """Write the chunks into it; return the positions in it whose logits are wanted.

        starts: the next position of each slot.
        """
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        wanted: list[int] = []
        for slot, chunk_tokens, wants_logits, _ in chunks:
            start, count = starts[slot], len(chunk_tokens)
            tokens += chunk_tokens
            positions += range(start, start + count)
            slots += [slot] * count
            if wants_logits:
                wanted.append(len(tokens) - 1)
        count = len(tokens)
        self._tokens[:count], self._positions[:count], self._slots[:count] = (
            tokens,
            positions,
            slots,
        )
        self._wants_logits[:count] = 0
        self._wants_logits[wanted] = 1
        self.batch.n_tokens = count
        return wanted
