"""The framing of bodies: bytes in, bytes out."""

from __future__ import annotations

import pytest

from backends._http.body import ChunkedReader, ContentLengthReader, IncompleteBody

BODY = b"5\r\nhello\r\n7;name=value\r\n, world\r\n1\r\n\n\r\n0\r\nTrailer: x\r\n\r\n"


@pytest.mark.parametrize("size", range(1, 12))
def test_a_chunked_body_is_the_same_however_it_comes(size: int) -> None:
    """Its bytes may be cut anywhere."""
    chunks = ChunkedReader()
    parts = [BODY[at : at + size] for at in range(0, len(BODY), size)]
    assert b"".join(map(chunks.feed, parts)) == b"hello, world\n"
    assert chunks.ended


@pytest.mark.parametrize("line", [b"x\r\n", b"\r\n", b"-1\r\n", b"1_0\r\n", b"1" * 5000])
def test_what_is_no_chunk_is_refused(line: bytes) -> None:
    """A size is hexadecimal and not long."""
    with pytest.raises(IncompleteBody):
        ChunkedReader().feed(line)


def test_a_body_that_ends_too_early_is_not_whole() -> None:
    """Whichever way its length was told; without one, its end is the connection's."""
    for framing in (ChunkedReader(), ContentLengthReader(3)):
        framing.feed(b"")
        with pytest.raises(IncompleteBody):
            framing.feed_eof()
    assert (ContentLengthReader(3).feed(b"abcd"), ContentLengthReader(None).feed_eof()) == (
        b"abc",
        b"",
    )
