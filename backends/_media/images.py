"""Check the size of images in pixels by their headers, before anything decodes them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from .fetch_policy import LinkError
from .sentences import LINK_DAMAGED, LINK_PIXELS

# A file's size tells nothing about the memory that its pixels take (decompression bombs).
MAX_PIXELS = 50_000_000


def check(data: bytes, media_type: str) -> None:
    """Raise LinkError for an image whose header is damaged or claims too many pixels."""
    try:
        width, height = SIZES[media_type](data)
    except (struct.error, IndexError, StopIteration):
        raise LinkError(LINK_DAMAGED) from None
    check_size(width, height)


def check_size(width: int, height: int) -> None:
    """Raise LinkError if an image has no pixels, or more than MAX_PIXELS."""
    if width < 1 or height < 1:
        raise LinkError(LINK_DAMAGED)
    if width * height > MAX_PIXELS:
        raise LinkError(LINK_PIXELS, width, height, MAX_PIXELS // 10**6)


# -- width and height, as each format writes them

JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that are followed by a size
JPEG_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


def _png_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    frame = next(at for marker, at in _jpeg_segments(data) if marker in JPEG_FRAMES)
    height, width = struct.unpack_from(">HH", data, frame + 3)
    return width, height


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker before the pixels, and the offset of its length."""
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in JPEG_BARE:
            at += 2
        else:
            yield marker, at + 2
            at += 2 + max(2, struct.unpack_from(">H", data, at + 2)[0])


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        low, middle, high, *rest = struct.unpack_from("<6B", data, 24)
        width = low | middle << 8 | high << 16
        height = rest[0] | rest[1] << 8 | rest[2] << 16
        return width + 1, height + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


SIZES: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "image/png": _png_size,
    "image/jpeg": _jpeg_size,
    "image/gif": _gif_size,
    "image/webp": _webp_size,
}
