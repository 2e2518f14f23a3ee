"""Decode pictures for models that read them here, and scale them down to a number of tokens."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable

import PIL.Image
import PIL.ImageOps

from .attachments import Attachment
from .fetch_policy import LinkError
from .images import check_size
from .sentences import LINK_DAMAGED

MAX_SCALINGS = 6  # attempts to scale an image down to its token limit
MAX_SIDE = 4096  # pixels of an image in memory: no processor uses more
BYTE_STEP = 257  # 16-bit values to one of 8 bits
DECODING = threading.Lock()  # one image at a time: the largest takes hundreds of MB meanwhile


def open_image(file: Attachment) -> PIL.Image.Image:
    """Decode an image to RGB, upright and at most MAX_SIDE; raises LinkError if it is damaged.

    Transparent parts become white.
    """
    kind = file.media_type.removeprefix("image/").upper()
    try:
        with DECODING:
            image = PIL.Image.open(io.BytesIO(file.data), formats=(kind,))
            check_size(*image.size)  # a GIF's frames may be larger than its header says
            image.thumbnail((MAX_SIDE, MAX_SIDE))
            return _to_rgb(PIL.ImageOps.exif_transpose(image))
    except LinkError:
        raise
    except Exception:  # noqa: BLE001 - decoders of untrusted bytes raise anything
        raise LinkError(LINK_DAMAGED) from None


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() clips at 255
        image = image.convert("I").point(lambda value: value / BYTE_STEP).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    page = PIL.Image.new("RGBA", image.size, "white")
    return PIL.Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")


def scaled_down(
    image: PIL.Image.Image, most: int, tokens_of: Callable[[PIL.Image.Image], int]
) -> tuple[PIL.Image.Image, int]:
    """Return the image, scaled down to `most` tokens if possible, and its number of tokens."""
    original = tokens = tokens_of(image)
    scaled = image
    for _ in range(MAX_SCALINGS):
        if tokens <= most:
            return scaled, tokens
        # processors scale down themselves, so that the first attempts may change nothing
        is_smaller = tokens < original
        factor = 0.95 * math.sqrt(most / tokens) if is_smaller else 0.4
        width, height = (max(1, int(side * factor)) for side in scaled.size)
        scaled = scaled.resize((width, height), PIL.Image.Resampling.BICUBIC)
        tokens = tokens_of(scaled)
    return (scaled, tokens) if tokens < original else (image, original)
