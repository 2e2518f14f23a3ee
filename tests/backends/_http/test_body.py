"""The framing of bodies: bytes in, bytes out."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest

from backends._http.body import (
    PIECE,
    ChunkedReader,
    ContentLengthReader,
    DamagedCompression,
    Decompressor,
    IncompleteBody,
)

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


def test_a_trailer_that_does_not_end_is_refused() -> None:
    """No text comes of it, so no other limit would notice."""
    reader = ChunkedReader()
    assert reader.feed(b"1\r\nx\r\n0\r\n" + b"Sum: 1\r\n" * 100) == b"x"
    with pytest.raises(IncompleteBody):
        for _ in range(100):
            reader.feed(b"Sum: 1\r\n" * 1000)


@pytest.mark.parametrize("end", [b"0\n\n", b"0;x\nA: b\n\r\n", b" 00 \r\n\n"])
def test_loose_line_ends_of_a_service_are_taken(end: bytes) -> None:
    """Nothing behind us reads the same bytes in another way."""
    reader = ChunkedReader()
    assert reader.feed(b"2\nhi\r\n" + end) == b"hi"
    assert reader.ended


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


TEXT = b"".join(b"line %d\n" % number for number in range(7000))  # longer than a piece
FRAMINGS = {
    "gzip": ("gzip", 31),
    "x-gzip": ("x-gzip", 31),
    "deflate": ("deflate", 15),
    "deflate without a head": ("deflate", -15),
}


def compressed(data: bytes, framing: int) -> bytes:
    """Compress at once."""
    compressor = zlib.compressobj(wbits=framing)
    return compressor.compress(data) + compressor.flush()


def decompress(coding: str, data: bytes, size: int) -> list[bytes]:
    """Feed a body in parts of this size; return the pieces."""
    decompressor, pieces = Decompressor(coding), []
    for at in range(0, len(data), size):
        decompressor.feed(data[at : at + size])
        pieces += iter(decompressor.read, b"")
    return pieces


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("kind", FRAMINGS)
def test_a_compressed_body_is_the_same_however_it_comes(kind: str, size: int) -> None:
    """In pieces of a bounded size; what follows its end is dropped, but another member is read."""
    coding, framing = FRAMINGS[kind]
    body = compressed(TEXT, framing)
    again = framing == 31
    pieces = decompress(coding, body + (compressed(b"", 31) + body if again else b"x"), size)
    assert b"".join(pieces) == TEXT * (1 + again)
    assert max(map(len, pieces)) <= PIECE


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("rest", [bytes(512), b"\0\0trailing", b"x"])
def test_what_follows_gzip_is_dropped(rest: bytes, size: int) -> None:
    """Zeros to fill a block, for instance."""
    assert b"".join(decompress("gzip", compressed(TEXT, 31) + rest, size)) == TEXT


def test_a_body_that_is_not_compressed_as_it_says_is_damaged() -> None:
    """Also in the middle."""
    whole = compressed(TEXT, 31)
    for coding, data in (
        ("gzip", b"hello, world"),
        ("deflate", b"\xff\xff"),
        ("gzip", whole[:99] + b"x" * 99),
    ):
        with pytest.raises(DamagedCompression):
            decompress(coding, data, 5)


def test_little_that_becomes_much_takes_little_memory() -> None:
    """A thousand times as much, read to its end."""
    bomb = compressed(bytes(8 << 20), 31)
    tracemalloc.start()
    try:
        decompressor = Decompressor("gzip")
        decompressor.feed(bomb)
        assert sum(map(len, iter(decompressor.read, b""))) == 8 << 20
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
