"""Ids of pictures in sequences: read back, unequal for other pictures, and positions from them."""

from __future__ import annotations

import pytest

from backends.llamacpp.vision.chat_media import ChatMedia
from backends.llamacpp.vision.layout import Layout
from backends.llamacpp.vision.media import Encoded
from backends.llamacpp.vision.spans import MAX_COUNT, MIN_HASHED, Span, find_spans, span_ids


@pytest.mark.parametrize(("tokens", "positions"), [(2, 1), (16, 16), (70, 12), (MAX_COUNT, 1)])
def test_ids_tell_where_pictures_are(tokens: int, positions: int) -> None:
    """Among text and behind another one; all fit into 32 bits, and none is a token."""
    one = span_ids(b"one", tokens, positions)
    ids = [5, 6, *one, *one, 0]
    assert all(-(2**31) <= one < 0 for one in one)
    first = Span(2, tokens, positions)
    assert list(find_spans(ids)) == [first, first._replace(start=first.end)]
    assert list(find_spans(ids[:3])) == []  # too little to tell


def test_equal_pictures_have_equal_ids_and_others_differ_at_once() -> None:
    """But for those that are too small to hold a hash, which equal none."""
    assert span_ids(b"one", 16, 16) == span_ids(b"one", 16, 16)
    assert span_ids(b"one", 16, 16)[0] != span_ids(b"two", 16, 16)[0]
    small = MIN_HASHED - 1
    assert span_ids(b"one", small, small) != span_ids(b"one", small, small)


@pytest.mark.parametrize(("tokens", "positions"), [(1, 1), (MAX_COUNT + 1, 1), (9, 0)])
def test_a_size_that_no_id_can_tell_is_refused(tokens: int, positions: int) -> None:
    """Rather than being taken for another one."""
    with pytest.raises(ValueError, match=f"{tokens} tokens"):
        span_ids(b"", tokens, positions)


def test_pictures_are_kept_whole_or_not_at_all() -> None:
    """A cut within one ends before it; behind it, positions count what it takes of them."""
    layout, ids = Layout(2), [7, 7, *span_ids(b"one", 16, 4), 7, 7]
    layout.set(1, ids)
    assert layout.positions([3, len(ids)]) == [3, 8]
    assert [layout.whole(1, length) for length in (2, 3, 17, 18, 20)] == [2, 2, 2, 18, 20]
    assert [layout.position(1, length) for length in (2, 18, 20)] == [2, 6, 8]
    assert [layout.least_last(1, length) for length in (0, 2, 18, 20)] == [-1, 1, 2, 7]
    layout.copy(1, 0)
    assert layout.cut(1, 10) == 2
    assert (layout.whole(1, 10), layout.position(1, 10)) == (10, 10)  # it is forgotten
    assert layout.whole(0, 10) == 2  # the copy is not
    layout.clear()
    lengths = [30, 30]
    assert layout.positions(lengths) is lengths


@pytest.mark.parametrize(("sees_all", "ends"), [(False, [2, 7, 12, 17, 18]), (True, [2, 18])])
def test_a_prompt_is_divided_at_its_pictures(sees_all: bool, ends: list[int]) -> None:
    """A picture whose tokens see each other is one piece; text is divided as it is wanted."""
    numpy = pytest.importorskip("numpy", reason="embeddings are arrays of numpy")
    one = span_ids(b"one", 16, 4)
    ids = [7, 7, *one, 7, 7, 7, 7, 7, 7]
    offsets = [list(range(16)), [0] * 16]
    media = ChatMedia(ids, [Encoded(one, numpy.arange(16), numpy.array(offsets), sees_all)])
    start, found = 0, []
    while start < 18:
        end = media.next_end(start, 5)
        piece = media.piece(start, end)
        found.append(end)
        assert (piece is None) == (start < 2)
        if piece is not None:
            at = list(range(start - 2, end - 2))
            assert (list(piece.embeddings), list(piece.offsets[0])) == (at, at)
            assert (piece.at, piece.span) == (start - 2, Span(2, 16, 4))
        start = end
    assert found == ends
    assert media.next_end(18, 5) == 23
    assert media.piece(18, 23) is None
