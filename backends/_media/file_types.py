"""Detect a file's MIME type by its first bytes, whatever its name or a server says.

The names are those of Gemini's documentation: audio/mp3, video/mov and so on.
"""

from __future__ import annotations

import codecs
import re

START = 4096  # bytes that are looked at

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
# The first match counts. RIFF and ISO base media files have their type behind a length.
MAGIC = (
    (re.compile(rb"\x89PNG\r\n\x1a\n.{4}IHDR", re.DOTALL), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF.{4}WEBPVP8[ XL]", re.DOTALL), "image/webp"),
    (re.compile(rb"\s{0,16}%PDF-"), "application/pdf"),
    (re.compile(rb"RIFF.{4}WAVE", re.DOTALL), "audio/wav"),
    (re.compile(rb"FORM.{4}AIF[FC]", re.DOTALL), "audio/aiff"),
    (re.compile(rb"fLaC"), "audio/flac"),
    (re.compile(rb"OggS"), "audio/ogg"),
    (re.compile(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"), "audio/mp3"),
    (re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), "audio/aac"),
    (re.compile(rb".{4}ftypM4[AB]", re.DOTALL), "audio/mp4"),
    (re.compile(rb".{4}ftypqt|.{4}(?:moov|wide)", re.DOTALL), "video/mov"),
    (re.compile(rb".{4}ftyp3g", re.DOTALL), "video/3gpp"),
    (re.compile(rb".{4}ftyp(?:isom|iso[2-9]|mp4|avc1|M4V|MSNV|dash|f4v)", re.DOTALL), "video/mp4"),
    (re.compile(rb"\x1a\x45\xdf\xa3.{0,60}webm", re.DOTALL), "video/webm"),
    (re.compile(rb"RIFF.{4}AVI ", re.DOTALL), "video/avi"),
    (re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), "video/wmv"),
    (re.compile(rb"FLV\x01"), "video/x-flv"),
    (re.compile(rb"\x00\x00\x01[\xb3\xba]"), "video/mpeg"),
)
ALL_TYPES = frozenset({*(media_type for _, media_type in MAGIC), "text/plain"})
MARKUP = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml|svg)\b", re.IGNORECASE)
CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")


def media_type(data: bytes) -> str:
    """Return the MIME type of a file by its beginning; empty for types that are not listed."""
    for pattern, found in MAGIC:
        if pattern.match(data):
            return found
    return "text/plain" if _is_text(data[:START]) else ""


def _is_text(start: bytes) -> bool:
    """Tell whether this begins a text in UTF-8; web pages and other markup do not count."""
    start = start.removeprefix(codecs.BOM_UTF8)
    if not start.strip() or MARKUP.match(start) or CONTROLS.search(start):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)  # its last character may be cut
    except UnicodeDecodeError:
        return False
    return True
