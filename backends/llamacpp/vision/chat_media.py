"""The encoded pictures of one prompt, whose negative ids stand for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .media import Encoded, MediaPiece
from .spans import Span, find_spans


class ChatMedia:
    """Finds the embeddings of a prompt's spans; ids: the prompt's; encoded: its pictures' spans."""

    def __init__(self, ids: Sequence[int], encoded: Iterable[Encoded]) -> None:
        known = {tuple(one.ids): one for one in encoded}
        self._spans: list[tuple[Span, Encoded]] = [
            (span, known[tuple(ids[span.start : span.end])]) for span in find_spans(ids)
        ]

    def next_end(self, start: int, most: int) -> int:
        """Return the end of the piece that starts at an index: of text, or of one picture.

        most: its tokens at most; a picture whose tokens see each other may have more.
        """
        for span, encoded in self._spans:
            if start < span.start:
                return min(start + most, span.start)
            if start < span.end:
                return span.end if encoded.sees_all else min(start + most, span.end)
        return start + most

    def piece(self, start: int, end: int) -> MediaPiece | None:
        """Return the embeddings of a piece, as next_end() ends it; None if it is text."""
        for span, encoded in self._spans:
            if span.start <= start < span.end:
                part = slice(start - span.start, end - span.start)
                offsets = None if encoded.offsets is None else encoded.offsets[:, part]
                embeddings = encoded.embeddings[part]
                return MediaPiece(embeddings, offsets, encoded.sees_all, span, part.start)
        return None
