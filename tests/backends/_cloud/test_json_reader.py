"""The JSON values of a body, however it frames them and wherever it is cut."""

from __future__ import annotations

import codecs
import json
import random
from typing import Any

import pytest

from backends._cloud import json_reader
from backends._cloud.json_reader import Event, JsonReader, NotJson, UnreadableBody

A, B = {"a": "x{[世"}, {"b": [1, {"c": None}]}
ONE, TWO = (json.dumps(one, ensure_ascii=False) for one in (A, B))
PRETTY = json.dumps(B, indent=2)
DONE = Event(NotJson("[DONE]"))

BODIES = [  # (body, events)
    # Server-sent events
    (f"data: {ONE}\n\ndata: {TWO}\n\n", [Event(A), Event(B)]),
    (f"data:{ONE}\n\ndata:  {TWO}\n\n", [Event(A), Event(B)]),
    (f"data: {ONE}\r\n\r\ndata: {TWO}\r\n\r\n", [Event(A), Event(B)]),
    (f"data: {ONE}\r\rdata: {TWO}\r\r", [Event(A), Event(B)]),
    (f": keep-alive\n\ndata: {ONE}\n: ping\n\n", [Event(A)]),
    (f"event: x\nid: 1\nretry: 5\ndata: {ONE}\n\n", [Event(A, "x")]),
    (f"event: x\ndata: {ONE}\n\ndata: {TWO}\n\n", [Event(A, "x"), Event(B)]),
    (f"data\nid\n\n\n\ndata: {ONE}\n\n\n\n", [Event(A)]),
    (f"data: {ONE}\n\ndata: {TWO}\n", [Event(A), Event(B)]),
    (f"data: {ONE}\n\ndata: {TWO}", [Event(A), Event(B)]),
    (f"data: {ONE}\ndata: {TWO}\n", [Event(A), Event(B)]),
    (f"data: data: {ONE}\n\n", [Event(A)]),
    ("data: " + PRETTY.replace("\n", "\ndata: ") + "\n\n", [Event(B)]),
    ("data: " + PRETTY.replace("\n", "\ndata: "), [Event(B)]),
    (f"data: {ONE}{TWO}\n\n", [Event(A), Event(B)]),
    (f"data: [{ONE}, 1]\n\n", [Event(A), Event(1)]),
    (f"data: {ONE}\n\ndata: [DONE]\n\n", [Event(A), DONE]),
    (f"data: {ONE}\n\ndata:[DONE]", [Event(A), DONE]),
    (f"data: {ONE}\n\n[DONE]\n", [Event(A), DONE]),
    ("data: 1\n\ndata: null\n\ndata: true\n\n", [Event(1), Event(None), Event(True)]),
    # Text where JSON should be
    (f"event: ping\ndata: still\ndata: here\n\ndata: {ONE}\n\n",
     [Event(NotJson("still\nhere"), "ping"), Event(A)]),
    (f"data: still here\ndata: {ONE}\n", [Event(NotJson("still here")), Event(A)]),
    (f"data: {{oops\n\ndata: {ONE}\n\n", [Event(NotJson("{oops")), Event(A)]),
    ("<html>\nhello", [Event(NotJson("<html>")), Event(NotJson("hello"))]),
    # Errors
    (f"event: error\ndata: {ONE}\n\n", [Event(A, "error")]),
    ("event: error\ndata: no\n\n", [Event(NotJson("no"), "error")]),
    ("event: error\ndata: no", [Event(NotJson("no"), "error")]),
    ("event: error\n\n", [Event(NotJson(), "error")]),
    ("event: error", [Event(NotJson(), "error")]),
    (f"error: {ONE}\n\ndata: [DONE]\n\n", [Event(A, "error"), DONE]),
    ("error: no\n\n", [Event(NotJson("no"), "error")]),
    # JSON without fields
    (ONE, [Event(A)]),
    (f" \n{PRETTY}\n", [Event(B)]),
    (f"{ONE}\n{TWO}\n", [Event(A), Event(B)]),
    (f"{ONE}\r\n\r\n{TWO}", [Event(A), Event(B)]),
    (f"{ONE}{TWO}", [Event(A), Event(B)]),
    (f"{PRETTY}\n\ndata: [DONE]\n\n", [Event(B), DONE]),
    (f"{ONE}data: [DONE]", [Event(A), DONE]),
    (f"[{ONE}\n,\r\n{PRETTY}\n]\n", [Event(A), Event(B)]),
    (f"[\n{ONE}]", [Event(A)]),
    ("[]", []),
    ("[12.5, [2], true]", [Event(12.5), Event([2]), Event(True)]),
    ("", []),
    ("\n\n", []),
]  # fmt: skip


def read(*parts: bytes) -> tuple[list[Event], bool]:
    """Return the events of a body in these parts, and whether it ends within one."""
    reader = JsonReader()
    found = [event for part in parts for event in reader.feed(part)]
    return found + reader.finish(), reader.is_truncated


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_body_may_be_cut_at_every_byte(encoding: str) -> None:
    """Nothing is lost and nothing comes twice."""
    assert BODIES
    for body, events in BODIES:
        data = body.encode(encoding)
        for cut in range(len(data) + 1):
            assert read(data[:cut], data[cut:]) == (events, False), (body, cut)
        assert read(*(bytes([one]) for one in data)) == (events, False), body


ATOMS = [
    *(
        "data:",
        "data: ",
        "event: error\n",
        "event: ",
        "error: ",
        ": ping",
        "id:",
        "[DONE]",
        "<html>",
    ),
    *(
        "\n",
        "\n\n",
        "\r",
        "\r\n",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"',
        "\\",
        "1",
        ".5",
        "null",
        "true",
    ),
    *(ONE, TWO, PRETTY, "{}", "[]", "[1, ", "\ufeff", "世"),
]


def test_any_body_is_read_alike_however_it_is_cut() -> None:
    """Random ones, of which few are right: what is made of them depends on nothing but them."""
    draw = random.Random(13)
    for _ in range(1000):
        data = "".join(draw.choices(ATOMS, k=draw.randint(1, 12))).encode()
        cut = draw.randint(0, len(data))
        assert repr(read(data[:cut], data[cut:])) == repr(read(data)), data


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (f"data: {ONE}\n\ndata: {TWO[:-1]}", [Event(A)]),
        (f"data: {ONE}\n\ndata: [DO", [Event(A)]),
        (f"data: {ONE}\n\ndat", [Event(A)]),
        (TWO[:-1], []),
        (f"{ONE}\n{TWO[:5]}", [Event(A)]),
        (f"[{ONE}, ", [Event(A)]),
        (f"[{ONE}, {TWO[:-1]}", [Event(A)]),
        ("[", []),
    ],
)
def test_the_beginning_of_a_value_at_the_end_is_dropped(body: str, events: list[Event]) -> None:
    """And told: the body broke off."""
    assert read(body.encode()) == (events, True)


def test_what_cannot_be_whole_later_is_damaged() -> None:
    """Not cut off: its brackets are closed."""
    for body in (b"{oops}", b"data: {oops}\n\n", b"data: {oops\n\n", b'[{"a": 1}}]', b"[oops]"):
        assert any(one.is_damaged for one in read(body)[0])
    assert not Event(NotJson("ping")).is_damaged
    assert not Event({}).is_damaged


@pytest.mark.parametrize("text", ["[DONE]", "[done]", " [DONE] ", "DONE", '"[DONE]"'])
def test_the_end_has_variants(text: str) -> None:
    """Each of them says that the answer is whole."""
    ((event,), _) = read(f"data: {text}\n\n".encode())
    assert event.is_done


@pytest.mark.parametrize("data", [{"done": True}, "ready", NotJson("[DONE"), 1, None])
def test_what_is_no_end(data: Any) -> None:
    """Objects are none, whatever they say."""
    assert not Event(data).is_done


def test_a_value_is_handed_out_as_soon_as_it_is_whole() -> None:
    """The line end of a data line is waited for, that of other JSON is not."""
    reader = JsonReader()
    assert reader.feed(b'data: {"a": 1}') == []
    assert reader.feed(b"\n") == [Event({"a": 1})]
    assert JsonReader().feed(b'[{"a": 1}') == [Event({"a": 1})]
    assert JsonReader().feed(b'{"a": 1}') == [Event({"a": 1})]


@pytest.mark.parametrize("start", [b"data: {\n", b"a", b'{"a": "', b'data: "'])
def test_a_value_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    """Before it fills the memory."""
    monkeypatch.setattr(json_reader, "LONGEST_EVENT", 1000)
    reader = JsonReader()
    reader.feed(start)
    with pytest.raises(UnreadableBody, match="too large"):
        for _ in range(100):
            reader.feed(b"data: aaaaaaaaaaaa" + b"\n" * (b"\n" in start))


@pytest.mark.parametrize("prefix", [b"", b"data: "])
def test_json_that_is_nested_too_deeply_is_refused(prefix: bytes) -> None:
    """Python would run out of stack."""
    with pytest.raises(UnreadableBody, match="nested too deeply"):
        read(prefix + b'[{"a":' * 100_000 + b"\n\n")


def test_a_long_value_is_not_parsed_again_at_every_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for it grows with its size, not with the square of it."""
    monkeypatch.setattr(json_reader, "PATIENT", 100)
    reader, tries = JsonReader(), []
    decode = JsonReader._decode
    monkeypatch.setattr(
        JsonReader, "_decode", lambda self, *place: tries.append(1) or decode(self, *place)
    )
    body = json.dumps({"a": "x" * 10_000}).encode()
    found = [event for at in range(0, len(body), 10) for event in reader.feed(body[at : at + 10])]
    assert len(tries) < 40
    assert found + reader.finish() == [Event({"a": "x" * 10_000})]


@pytest.mark.parametrize("body", [b"\n" * 40_000, b"data: x\n" * 10_000, b"{}" * 20_000])
def test_each_character_is_copied_a_few_times(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """Many lines or values in one read, as decompression gives them, cost what they cost alone."""
    copied = 0

    class Text(str):
        def __getitem__(self, key: Any) -> str:
            nonlocal copied
            found = str.__getitem__(self, key)
            copied += len(found)
            return Text(found)

        def partition(self, sep: str) -> Any:
            nonlocal copied
            copied += len(self)
            return tuple(map(Text, str.partition(self, sep)))

        def lstrip(self, chars: str | None = None) -> str:
            nonlocal copied
            copied += len(self)
            return Text(str.lstrip(self, chars))

        def __radd__(self, other: str) -> str:
            return Text(other + str(self))

    monkeypatch.setattr(json_reader.TextDecoder, "feed", lambda _, data: Text(data.decode()))
    JsonReader().feed(body)
    assert copied < 20 * len(body)


def test_a_byte_order_mark_may_stand_in_the_middle() -> None:
    """Where a gateway joins bodies."""
    body = codecs.BOM_UTF8 + b'data: {"a": 1}\n\n' + codecs.BOM_UTF8 + b'data: {"b": 2}\n\n'
    assert read(body) == ([Event({"a": 1}), Event({"b": 2})], False)
