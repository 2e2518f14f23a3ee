"""Objects of a JSON array that comes in pieces, and what is no such array."""

from __future__ import annotations

import json

import pytest

from backends.geminipro import json_stream
from backends.geminipro.json_stream import JsonArrayReader, MalformedResponse, TruncatedResponse

OBJECTS = [
    {"text": 'a "quoted\\" brace } and ] and 你好'},
    {"nested": [{"deep": [1, 2]}, "]"]},
    {},
    {"last": None},
]


def read(*pieces: bytes) -> list[object]:
    """Return all objects of an array that comes in these pieces, and ends."""
    reader = JsonArrayReader()
    found: list[object] = [one for piece in pieces for one in reader.feed(piece)]
    reader.finish()
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_may_be_cut_anywhere(size: int, indent: int | None) -> None:
    """Also in the middle of a character, however it is written."""
    data = json.dumps(OBJECTS, ensure_ascii=False, indent=indent).encode()
    assert read(*(data[at : at + size] for at in range(0, len(data), size))) == OBJECTS


def test_an_object_is_handed_out_with_its_last_brace() -> None:
    """Nothing that follows is waited for."""
    reader = JsonArrayReader()
    assert reader.feed(b'[{"a": 1') == []
    assert reader.feed(b"}") == [{"a": 1}]
    assert reader.feed(b',\r\n{"b": 2}\n') == [{"b": 2}]
    assert reader.feed(b"]\n") == []
    reader.finish()


def test_white_space_may_stand_around_an_array() -> None:
    """A byte order mark may not; an empty array is one."""
    assert read(b" \r\n", b"[", b"\n]", b" \n") == []


@pytest.mark.parametrize(
    "data",
    [
        b"<html>not found</html>",
        b'{"error": {}}',
        b"[1]",
        b'["text"]',
        b"[[{}]]",
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf[]",
        b'[{"a": 1}] more',
        b"[] []",
        b'[{"a": 1}}]',
        b"data: {}\n\n",
        b'[{"a":' * 100_000 + b"}",
    ],
)
def test_what_is_no_array_of_objects_is_refused(data: bytes) -> None:
    """At once, and without a word of what came."""
    with pytest.raises(MalformedResponse) as refused:
        JsonArrayReader().feed(data)
    assert str(refused.value) in ("it is no array of objects", "it is nested too deeply")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"[", "it broke off"),
        (b'[{"a": 1}', "it broke off"),
        (b'[{"a": 1},', "it broke off"),
        (b'[{"a": "half', "it broke off"),
        (b'[{"a": nothing}]', "it broke off"),
    ],
)
def test_an_array_that_is_not_whole_is_refused_at_its_end(data: bytes, reason: str) -> None:
    """What was whole of it has been handed out before."""
    reader = JsonArrayReader()
    reader.feed(data)
    with pytest.raises(TruncatedResponse, match=f"^{reason}$"):
        reader.finish()


@pytest.mark.parametrize("more", [b"}" * 100, b"a" * 100])
def test_an_object_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, more: bytes) -> None:
    """What waits for its last brace is bounded."""
    monkeypatch.setattr(json_stream, "LARGEST", 1000)
    reader = JsonArrayReader()
    reader.feed(b'[{"a": "')
    with pytest.raises(MalformedResponse, match="too long"):
        for _ in range(100):
            reader.feed(more)
