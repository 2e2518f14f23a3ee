"""Pictures are checked by their heads, before anything decodes them."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest

from backends._media.fetch_policy import LinkError
from backends._media.file_types import media_type
from backends._media.images import check


def png(width: int = 2, height: int = 1) -> bytes:
    """Return a real PNG, black, whose head claims this size."""
    body = zlib.compress(b"\0" * 7)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", body))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (*chunks, (b"IEND", b""))
    )


def gif(width: int, height: int) -> bytes:
    """Return the head of a GIF."""
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0;"


def jpeg(width: int, height: int) -> bytes:
    """Return the head of a JPEG: a comment and a filling byte stand before the size."""
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 8, 8, height, width, 1)
    return b"\xff\xd8\xff\xfe\x00\x04hi\xff" + frame


def webp(kind: bytes, rest: bytes) -> bytes:
    """Return the head of a WebP."""
    return b"RIFF\x20\0\0\0WEBP" + kind + b"\x0a\0\0\0" + rest


def data_url(data: bytes) -> str:
    """Return a picture as an address."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


PICTURES = [
    (png(), "image/png"),
    (jpeg(3, 2), "image/jpeg"),
    (gif(3, 2), "image/gif"),
    (webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 3, 2)), "image/webp"),
    (webp(b"VP8L", b"\x2f" + struct.pack("<I", 2 | 1 << 14)), "image/webp"),
    (webp(b"VP8X", b"\0\0\0\0\x02\0\0\x01\0\0"), "image/webp"),
]


@pytest.mark.parametrize(("data", "kind"), PICTURES)
def test_a_whole_picture_passes(data: bytes, kind: str) -> None:
    """Of every kind that is taken."""
    assert media_type(data) == kind
    check(data, kind)


@pytest.mark.parametrize(
    "data",
    [
        png(60_000, 60_000),
        jpeg(60_000, 60_000),
        gif(60_000, 60_000),
        webp(b"VP8X", b"\0\0\0\0\xff\xff\xff\xff\xff\xff"),
        webp(b"VP8L", b"\x2f\xff\xff\xff\xff"),
    ],
)
def test_a_small_file_with_a_huge_image_is_refused(data: bytes) -> None:
    """Before anything is unpacked; the sentence says how large it would be."""
    with pytest.raises(LinkError, match=r"it has \d+ x \d+ pixels, and at most 50 million"):
        check(data, media_type(data))


@pytest.mark.parametrize(
    "data",
    [
        png()[:18],
        jpeg(3, 2)[:-6],
        b"\xff\xd8\xff\xfe\xff\xff",
        webp(b"VP8X", b""),
        gif(0, 5),
    ],
)
def test_a_damaged_head_is_refused(data: bytes) -> None:
    """Cancelled off, or without a pixel."""
    with pytest.raises(LinkError, match="it is damaged"):
        check(data, media_type(data))
