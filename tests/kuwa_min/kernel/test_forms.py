"""Forms: urlencoded, multipart, hostile; exact, and in linear time."""

from __future__ import annotations

import json
import random
from urllib.parse import quote_plus, unquote_to_bytes, urlencode

import pytest

from kuwa_min.chat import catalog
from kuwa_min.errors import HTTPError
from kuwa_min.kernel import forms

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=----WebKitFormBoundaryAbC123"
HISTORY = [{"isbot": False, "msg": "hi"}]


def multipart(*fields: tuple[str, str], boundary: str = "----WebKitFormBoundaryAbC123") -> bytes:
    """Write fields as browsers do."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields
    ]
    return ("".join(parts) + f"--{boundary}--\r\n").encode()


@pytest.mark.parametrize(
    "content_type",
    [
        URLENCODED,
        f"{URLENCODED}; charset=utf-8",
        f"{URLENCODED}; charset=Big5",
        f"{URLENCODED}; charset=utf-16",
        "application/json",
        "",
        "text/plain",
        MULTIPART,
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=;boundary=x",
    ],
)
def test_an_urlencoded_body_is_read_whatever_the_header_says(content_type: str) -> None:
    """The Kernel forwards its client's Content-Type over a body of its own."""
    form = {"name": "debug", "input": json.dumps(HISTORY), "msg": "a+b&c=d 測試 %41", "empty": ""}
    assert forms.parse_form(urlencode(form).encode(), content_type) == form


@pytest.mark.parametrize(
    "content_type",
    [
        MULTIPART,
        'multipart/form-data; boundary="----WebKitFormBoundaryAbC123"',
        "Multipart/Form-Data; charset=utf-8; Boundary=----WebKitFormBoundaryAbC123",
        "multipart/form-data; boundary=----WebKitFormBoundaryAbC123; charset=utf-8",
        "multipart/form-data; boundary=----WebKitFormBoundaryAbC123 ; charset=utf-8",
    ],
)
def test_a_real_multipart_body_is_read(content_type: str) -> None:
    """Values come back byte for byte: no percent-decoding, line ends inside stay."""
    fields = {
        "name": "debug",
        "input": json.dumps(HISTORY),
        "msg": "a+b&c=d 測試 %41\r\n\r\nnext\r\n",
        "empty": "",
    }
    assert forms.parse_form(multipart(*fields.items()), content_type) == fields


def test_a_multipart_part_may_carry_more_headers() -> None:
    """A file name and a type do not hide the field's name."""
    body = (
        b'--X\r\ncontent-disposition: form-data; filename="a.txt"; name="file"\r\n'
        b"Content-Type: text/plain\r\n\r\ncontent\r\n"
        b'--X\r\nContent-Disposition: form-data; name="b"\r\n\r\n2\r\n'
        b"--X\r\nContent-Disposition: form-data; name=c; x=y\r\n\r\n3\r\n--X--\r\n"
    )
    form = forms.parse_form(body, "multipart/form-data; boundary=X")
    assert form == {"file": "content", "b": "2", "c": "3"}


def test_the_boundary_counts_only_at_the_start_of_a_line() -> None:
    """A text that mentions the boundary arrives whole."""
    text = "what does --X mean? and\n--X?"
    body = multipart(("input", text), ("name", "debug"), boundary="X")
    form = forms.parse_form(body, "multipart/form-data; boundary=X")
    assert form == {"input": text, "name": "debug"}


@pytest.mark.parametrize("preamble", [b"\r\n", b"\n", b" \t"])
def test_a_preamble_of_white_space_is_skipped(preamble: bytes) -> None:
    """Some clients begin with an empty line."""
    body = preamble + multipart(("a", "1"), boundary="X")
    assert forms.parse_form(body, "multipart/form-data; boundary=X") == {"a": "1"}


def test_a_boundary_of_8_bit_characters_is_found() -> None:
    """Headers are Latin-1."""
    body = b'--\xe9\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--\xe9--\r\n'
    assert forms.parse_form(body, "multipart/form-data; boundary=\xe9") == {"a": "1"}


@pytest.mark.parametrize(
    "body",
    [
        b"--X",
        b"--X--\r\n",
        b"--X\r\n\r\nvalue\r\n--X--\r\n",
        b'--X\r\nContent-Disposition: form-data; name="a"\r\n--X--\r\n',
        b'--X\r\nContent-Disposition: form-data; filename="a"\r\n\r\nvalue\r\n--X--\r\n',
    ],
)
def test_a_multipart_body_without_fields_is_an_empty_form(body: bytes) -> None:
    """Nothing is made up."""
    assert forms.parse_form(body, "multipart/form-data; boundary=X") == {}


@pytest.mark.parametrize("body", [b"", b"&", b"&&&"])
def test_a_body_without_fields_is_an_empty_form(body: bytes) -> None:
    """Separators alone are no fields."""
    assert forms.parse_form(body, URLENCODED) == {}


def test_the_last_value_of_a_field_wins() -> None:
    """In both kinds of forms."""
    assert forms.parse_form(b"a=1&b=2&a=3", URLENCODED) == {"a": "3", "b": "2"}
    body = multipart(("a", "1"), ("a", "3"), boundary="X")
    assert forms.parse_form(body, "multipart/form-data; boundary=X") == {"a": "3"}


@pytest.mark.parametrize("body", [b"a=%ff%fe", b"a=\xff\xfe"])
def test_bytes_that_are_not_utf8_are_replaced(body: bytes) -> None:
    """Broken text is readable text with replacement characters."""
    assert forms.parse_form(body, URLENCODED) == {"a": "\ufffd\ufffd"}


def test_bytes_of_a_multipart_body_that_are_not_utf8_are_replaced() -> None:
    """In names and in values."""
    body = b'--X\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\xfe\r\n--X--\r\n'
    form = forms.parse_form(body, "multipart/form-data; boundary=X")
    assert form == {"\ufffd": "\ufffd"}


def test_a_multipart_form_has_at_most_100_fields() -> None:
    """Fields of one name are counted, too."""
    fields = [(f"f{n}", "1") for n in range(101)]
    content_type = "multipart/form-data; boundary=X"
    whole = multipart(*fields[:100], boundary="X")
    assert forms.parse_form(whole, content_type) == dict(fields[:100])
    for too_many in (fields, [("a", "1")] * 101):
        with pytest.raises(HTTPError) as refused:
            forms.parse_form(multipart(*too_many, boundary="X"), content_type)
        assert refused.value.status == 400
        assert refused.value.message == catalog.TOO_MANY_FIELDS.format(100)


def test_a_form_has_at_most_100_fields() -> None:
    """One more is refused, and 100 are fine."""
    fields = [f"f{n}=1" for n in range(101)]
    assert len(forms.parse_form("&".join(fields[:100]).encode(), URLENCODED)) == 100
    with pytest.raises(HTTPError) as refused:
        forms.parse_form("&".join(fields).encode(), URLENCODED)
    assert refused.value.status == 400
    assert "100 fields" in refused.value.message


# Whatever may confuse one of the two decoders that do the work.
SPLINTERS = [
    *(b"%", b"%%", b"%4", b"%41", b"%4g", b"%g4", b"%3D", b"%3d", b"%25", b"%0D%0A", b"%E4%BD%A0"),
    *(b"=", b"==", b"=41", b"=\n", b"+", b"_", b" ", b".", b"\r", b"\n", b"\0", b"a", b"F", b"1"),
    *(b"\xe4", b"\xbd", b"\xa0", b"\xff", "你".encode()),
]


@pytest.mark.parametrize("block", [3, 4, 7, 64])
def test_values_are_unescaped_exactly(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As urllib.parse does bytes, wherever a block ends; a bare = belongs to the value."""
    monkeypatch.setattr(forms, "BLOCK", block)
    choose = random.Random(block)
    for _ in range(2000):
        value = b"".join(choose.choices(SPLINTERS, k=choose.randrange(12)))
        wanted = unquote_to_bytes(value.replace(b"+", b" ")).decode("utf-8", "replace")
        assert forms.parse_form(b"x&v=" + value + b"&y=", URLENCODED) == {
            "x": "",
            "v": wanted,
            "y": "",
        }


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_names_and_values_of_every_character_come_back(kind: type[bytes] | type[bytearray]) -> None:
    """Escape each as clients do."""
    text = "".join(map(chr, [*range(0x180), 0x4F60, 0x1F642]))
    assert forms.parse_form(kind(urlencode({text: text}).encode()), "") == {text: text}


@pytest.mark.parametrize(
    "text", ["你好，世界。" * 5000, "100 % = 1 + 0 & more\r\n" * 3000, "héllo", ""]
)
def test_long_texts_come_back_from_many_blocks(text: str) -> None:
    """Several blocks of escaped Chinese, and of what needs no escape."""
    assert forms.parse_form(f"a={quote_plus(text)}&b=1".encode(), "") == {"a": text, "b": "1"}


def test_a_form_of_stray_percent_signs_is_refused() -> None:
    """A few are text; as many as these would cost a second for a megabyte."""
    few = b"a=" + b"100%!" * 1000
    assert forms.parse_form(few, "") == {"a": "100%!" * 1000}
    with pytest.raises(HTTPError) as refused:
        forms.parse_form(few + b"%", "")
    assert (refused.value.status, refused.value.message) == (400, catalog.MALFORMED_FORM)
