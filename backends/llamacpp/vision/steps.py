"""Divide what a step computes at pictures, whose tokens need batches of their own."""

from __future__ import annotations

from typing import Any, TypeVar

from backends._local.sequence import Sequence
from backends.llamacpp.batching.token_batch import SequenceChunk

EntryT = TypeVar("EntryT", bound=tuple[Any, list[int]])  # a sequence, and the tokens to compute


def next_chunk(sequence: Sequence[Any], size: int) -> list[int]:
    """Return the next tokens to prefill, `size` at most: of text, or of one picture.

    A picture whose tokens see each other may have more.
    """
    media, start = sequence.request.model_inputs, len(sequence.tokens)
    return sequence.next_chunk(size if media is None else media.next_end(start, size) - start)


def divided(plan: list[EntryT]) -> tuple[list[EntryT], list[EntryT]]:
    """Return the entries with text, which are computed at once, and those with pictures."""
    texts = [entry for entry in plan if entry[1][0] >= 0]
    return texts, [] if len(texts) == len(plan) else [one for one in plan if one[1][0] < 0]


def chunk(sequence: Sequence[Any], tokens: list[int]) -> SequenceChunk:
    """Return these next tokens of a sequence as a chunk for the context."""
    media, start = None, len(sequence.tokens)
    if tokens[0] < 0:
        media = sequence.request.model_inputs.piece(start, start + len(tokens))
    return SequenceChunk(sequence.slot, tokens, len(tokens) >= sequence.remaining, media)
