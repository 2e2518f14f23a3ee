"""Fetch images, convert them, write them as data URLs. Its functions need Pillow."""

from __future__ import annotations

import base64
import functools
import io
import logging
import mimetypes
from typing import Any

from . import _fetch
from .cache import lru_cache_with_ttl

logger = logging.getLogger(__name__)


def ext2mime(ext: str) -> str | None:
    """Return the MIME type of a file name's extension, with or without its dot."""
    return mimetypes.guess_type(f"name.{ext.removeprefix('.')}")[0]


@functools.cache
def get_supported_image_mime() -> set[str]:
    """Return the MIME types of the images that Pillow opens; none without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        logger.warning("pictures are not looked at: this Python lacks the Pillow library")
        return set()
    extensions = Image.registered_extensions()
    kinds = {ext2mime(extension) for extension, kind in extensions.items() if kind in Image.OPEN}
    return {kind for kind in kinds if kind is not None}


def convert_image(img: Any, output_format: str = "png") -> bytes:
    """Return an image's bytes in another format, with an alpha channel (RGBA)."""
    stream = io.BytesIO()
    img.convert("RGBA").save(stream, format=output_format)
    return stream.getvalue()


def image_to_data_url(img: Any, output_format: str = "png", add_prefix: bool = True) -> str | None:
    """Return an image as a data URL, or as its Base64 text alone; None for None."""
    if img is None:
        return None
    text = base64.b64encode(convert_image(img, output_format)).decode("ascii")
    return f"data:{ext2mime(output_format)};base64,{text}" if add_prefix else text


@lru_cache_with_ttl()
def fetch_image(url: str | None) -> Any:
    """Return the image at a URL; None without a URL; raises ValueError if it is no image."""
    if not url:
        return None
    from PIL import Image

    return Image.open(io.BytesIO(_fetch.get(url, get_supported_image_mime())))


@lru_cache_with_ttl()
def fetch_image_as_data_url(url: str | None, output_format: str = "png") -> str | None:
    """Return the image at a URL as a data URL; None without a URL."""
    return image_to_data_url(fetch_image(url), output_format)
