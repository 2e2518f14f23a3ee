"""The text of a body, whatever Unicode it is in and however it is cut."""

from __future__ import annotations

import codecs

import pytest

from backends._cloud.text_decoder import TextDecoder

TEXT = 'data: {"a": "世界 \u2028 😀"}\n\nnext\n'


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
    ],
)
def test_a_body_may_be_cut_at_every_byte(data: bytes) -> None:
    """Also in a byte order mark, in a character and in a line end."""
    for cut in range(len(data) + 1):
        decoder = TextDecoder()
        assert decoder.feed(data[:cut]) + decoder.feed(data[cut:]) + decoder.finish() == TEXT


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"", ""), (b"a", "a"), (b"\xef\xbb\xbf", ""), (b"a\xff\xe4", "a\ufffd\ufffd")],
)
def test_what_is_short_or_broken_is_text_too(data: bytes, text: str) -> None:
    """Bytes that are no character become U+FFFD."""
    decoder = TextDecoder()
    assert decoder.feed(data) + decoder.finish() == text
