"""Find the picture that a person sent with a chat, and bring it here under limits.

Knows nothing of models: a backend gives the history and gets bytes whose kind and size are known.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from kuwa_min.errors import AnswerError
from kuwa_min.modelfile import Message
from kuwa_min.sentences import IMAGE_NOT_FETCHED, IMAGE_NOT_READ

from . import _web

logger = logging.getLogger(__name__)

URL = re.compile(r"https?://\S+|data:image/\S+", re.IGNORECASE)
DATA = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
TRAILING = ".,;:!?)]}>'\"*`。，；：！？）」』"  # ends a sentence or a link, not an address
MARK = "\ufffc"  # stands in a message where its picture belongs; Unicode's own sign for that
LARGEST = 10 * 2**20  # bytes of a picture
PIXELS = 50_000_000  # of a picture: its bytes say nothing about the memory that it takes
KINDS = "PNG, JPEG, GIF or WebP"


class Image(NamedTuple):
    """The bytes of a picture and what they are: image/png, image/jpeg, image/gif, image/webp."""

    data: bytes
    media_type: str


def attach(history: list[Message], *, allow_private: bool) -> tuple[Image | None, list[Message]]:
    """Fetch the picture of a chat; return it and the history, where MARK stands for it.

    Raises AnswerError if the last message brings a picture that cannot be had. One of an earlier
    message is left alone then, or the person could never go on.
    """
    url, marked = find(history)
    if url is None:
        return None, marked
    try:
        return fetch(url, allow_private=allow_private), marked
    except AnswerError as error:
        return None, without_picture(history, marked, error)


def without_picture(
    history: list[Message], marked: list[Message], error: AnswerError
) -> list[Message]:
    """Return the history without the picture that failed; raises the error if it is a new one.

    marked: the history in which MARK stands for it.
    """
    if MARK in marked[-1]["content"]:
        raise error
    logger.info("an earlier picture is left out: %s", error)
    return without_marks(history)


def find(history: list[Message]) -> tuple[str | None, list[Message]]:
    """Return the user's latest address and the history with MARK for it, before its message."""
    kept = without_marks(history)
    for index in range(len(kept) - 1, -1, -1):
        message = kept[index]
        found = list(URL.finditer(message["content"])) if message["role"] == "user" else []
        if found:
            url = found[-1].group().rstrip(TRAILING)
            start = found[-1].start()
            before, after = message["content"][:start], message["content"][start + len(url) :]
            kept[index] = {**message, "content": MARK + f"{before}{after}".strip()}
            return url, kept
    return None, kept


def without_marks(history: list[Message]) -> list[Message]:
    """Return the history without any sign of a picture."""
    return [{**one, "content": one["content"].replace(MARK, "")} for one in history]


def fetch(url: str, *, allow_private: bool) -> Image:
    """Return the picture of a data:, http: or https: address; raises AnswerError saying why not."""
    if url[:5].lower() == "data:":
        return inspect(_decode(url))
    try:
        data = _web.fetch(url, largest=LARGEST, allow_private=allow_private)
    except _web.Unreachable as error:
        raise AnswerError(IMAGE_NOT_FETCHED.format(error)) from None
    return inspect(data)


def _decode(url: str) -> bytes:
    head = DATA.match(url)
    if not head:
        raise _unreadable("its data: address must begin with data:image/...;base64,")
    text = url[head.end() :]
    if len(text) > LARGEST * 4 // 3 + 4:
        raise _unreadable(f"it is larger than {LARGEST >> 20} MiB")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _unreadable("its data: address is damaged or was cut off") from None


def inspect(data: bytes) -> Image:
    """Return the bytes with their kind; raises AnswerError if they are no picture, or a huge one.

    The first bytes decide, not what a server or an address says.
    """
    found = next((one for one in FORMATS if one[0].match(data)), None)
    if found is None:
        raise _unreadable(f"what came is no {KINDS} picture")
    _, media_type, measure = found
    try:
        width, height = measure(data)
    except (struct.error, IndexError, StopIteration):
        raise _unreadable("it is damaged") from None
    check_size(width, height)
    return Image(data, media_type)


def check_size(width: int, height: int) -> None:
    """Raise AnswerError if a picture has no pixels, or more than fit into memory."""
    if width * height > PIXELS:
        raise _unreadable(
            f"it has {width} x {height} pixels, and at most {PIXELS // 10**6} million are taken"
        )
    if width < 1 or height < 1:
        raise _unreadable("it is empty")


def _unreadable(reason: str) -> AnswerError:
    return AnswerError(IMAGE_NOT_READ.format(reason))


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
    """Yield each marker before the pixels, and where its length stands."""
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
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


Format = tuple["re.Pattern[bytes]", str, Callable[[bytes], tuple[int, int]]]
FORMATS: tuple[Format, ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n.{4}IHDR", re.DOTALL), "image/png", _png_size),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", _jpeg_size),
    (re.compile(rb"GIF8[79]a"), "image/gif", _gif_size),
    (re.compile(rb"RIFF.{4}WEBPVP8[ XL]", re.DOTALL), "image/webp", _webp_size),
)
