"""The first bytes of a file say what it is."""

from __future__ import annotations

import gzip
import struct
import wave
from pathlib import Path

import pytest

from backends._media.file_types import ALL_TYPES, IMAGE_TYPES, media_type
from tests.backends._media.test_images import png

BOX = struct.pack(">I", 24)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (png(), "image/png"),
        (b"%PDF-1.7\n%\xe2\xe3", "application/pdf"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "audio/wav"),
        (b"RIFF\x24\0\0\0AVI LIST", "video/avi"),
        (b"FORM\0\0\0\x10AIFFCOMM", "audio/aiff"),
        (b"fLaC\0\0\0\x22", "audio/flac"),
        (b"OggS\0\x02", "audio/ogg"),
        (b"ID3\x04\0\0", "audio/mp3"),
        (b"\xff\xfb\x90\x64", "audio/mp3"),
        (b"\xff\xf1\x50\x80", "audio/aac"),
        (BOX + b"ftypM4A \0\0\0\0", "audio/mp4"),
        (BOX + b"ftypisom\0\0\2\0", "video/mp4"),
        (BOX + b"ftypmp42\0\0\0\0", "video/mp4"),
        (BOX + b"ftypqt  \0\0\0\0", "video/mov"),
        (BOX + b"ftyp3gp5\0\0\0\0", "video/3gpp"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm", "video/webm"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", "video/wmv"),
        (b"FLV\x01\x05", "video/x-flv"),
        (b"\0\0\1\xba\x44", "video/mpeg"),
        (b"# Title\nText.\r\n", "text/plain"),
        ("\ufeff圖片說明".encode(), "text/plain"),
        ("圖".encode() * 2000, "text/plain"),
        (b'{"a": 1}', "text/plain"),
        (b"<!DOCTYPE html><html>", ""),
        (b"\n <html lang=zh>", ""),
        (b'<?xml version="1.0"?><svg/>', ""),
        ("圖片".encode("big5"), ""),
        (b"a\0b", ""),
        (b"PK\x03\x04\x14\0", ""),
        (gzip.compress(png(), mtime=0), ""),
        (b" \n", ""),
        (b"", ""),
    ],
)
def test_a_file_is_known_by_its_first_bytes(data: bytes, kind: str) -> None:
    """Web pages, archives and texts of other encodings are no kind that a model is sent."""
    assert media_type(data) == kind
    assert not kind or kind in ALL_TYPES


def test_a_character_that_is_cut_off_by_the_reading_is_no_damage() -> None:
    """Only the first bytes are looked at, wherever they end."""
    data = "圖".encode() * 2000
    assert {media_type(data[:length]) for length in (4094, 4095, 4096)} == {"text/plain"}


def test_what_python_writes_is_known(tmp_path: Path) -> None:
    """A real sound, not a head that was made by hand."""
    file = tmp_path / "a.wav"
    with wave.open(str(file), "wb") as sound:
        sound.setparams((1, 2, 8000, 8, "NONE", ""))
        sound.writeframes(b"\0" * 16)
    assert media_type(file.read_bytes()) == "audio/wav"


def test_pictures_are_among_all() -> None:
    """A backend that takes all types takes images."""
    assert IMAGE_TYPES < ALL_TYPES
