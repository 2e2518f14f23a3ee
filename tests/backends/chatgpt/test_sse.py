"""Server-sent events: bytes to data, however they are cut."""

from __future__ import annotations

import pytest

from backends.chatgpt import sse
from backends.chatgpt.sse import EventTooLarge, SSEDecoder

STREAMS = [
    (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    (b"data: a\ndata: b\n\n", [b"a\nb"]),
    (b": keep-alive\n\ndata: a\n: ping\n\n", [b"a"]),
    (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
    (b"\n\n\ndata: a\n\n\n\n", [b"a"]),
    ("data: 世界\n\n".encode(), ["世界".encode()]),
    (b"data: a\n\ndata: b\n", [b"a", b"b"]),
    (b"data: a\n\ndata: b", [b"a", b"b"]),
    (b"", []),
    (b"<html>\n</html>", []),
]


@pytest.mark.parametrize(("stream", "found"), STREAMS)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_events_are_the_same_however_they_come(
    stream: bytes, found: list[bytes], size: int
) -> None:
    """In single bytes, or all at once."""
    events = SSEDecoder()
    parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    taken = [event for part in parts for event in events.feed(part)]
    assert taken + events.finish() == found


def test_an_event_may_say_that_it_is_an_error() -> None:
    """By its name."""
    events = SSEDecoder()
    events.feed(b"event: message\ndata: a\n\n")
    assert not events.has_error_event
    assert events.feed(b"event: error\ndata: b\n\n") == [b"b"]
    assert events.has_error_event


@pytest.mark.parametrize(
    ("stream", "strange"),
    [
        (b": ping\n\nevent: x\nid: 1\nretry: 2\ndata: a\ndata\n\n", False),
        (b"", False),
        (b"<html>\n", True),
        (b"\xff\xfe", True),
    ],
)
def test_what_is_no_stream_of_events_is_noticed(stream: bytes, strange: bool) -> None:
    """By a line that no event has."""
    events = SSEDecoder()
    events.feed(stream)
    events.finish()
    assert events.has_unknown_lines is strange


@pytest.mark.parametrize("line", [b"data: a\n", b"aaaaaaa"])
def test_an_event_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    """Before it fills the memory."""
    monkeypatch.setattr(sse, "LONGEST_EVENT", 20)
    events = SSEDecoder()
    with pytest.raises(EventTooLarge):
        for _ in range(100):
            events.feed(line)
