"""Answers in every framing, under every label, cut at every byte: no text is lost or doubled."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from backends._cloud.json_reader import JsonReader
from backends._cloud.sentences import BROKEN_OFF
from backends.chatgpt.response import CompletionParser
from kuwa_min.chat import catalog
from kuwa_min.chat.side_notes import SIDE_NOTE
from tests.fakes.openai.server import Handler
from tests.fakes.openai.talks_garbage import body, events_of
from tests.support.cloud_chats import ask

from .asking import Serve, connect

pytest.importorskip("openai", reason="the chatgpt backend needs openai")

PIECES = ["Hi 世", "界 {x} [DONE]\n\n", "data: 😀"]
TEXT = "".join(PIECES)


def piece(content: Any, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a chunk of an answer."""
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}],
            **fields}  # fmt: skip


CHUNKS = [*map(piece, PIECES), piece("", "stop")]
AROUND = {  # objects without text: at the beginning, at the end
    "role": {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]},
    "usage": {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 4}},
}
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
MAGISTRAL = [
    piece([THINKING]),
    piece([{"type": "text", "text": PIECES[0]}]),
    piece([{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": PIECES[1]}]),
    piece(PIECES[2], "stop"),
]
OLLAMA = [
    *({"message": {"role": "assistant", "content": one}, "done": False} for one in PIECES),
    {"message": {"content": ""}, "done": True, "done_reason": "stop"},
]
LEGACY = [*({"choices": [{"text": one, "index": 0}]} for one in PIECES), piece(None, "stop")]
WHOLE = {"choices": [{"index": 0, "message": {"content": TEXT}, "finish_reason": "stop"}]}


def lines(chunks: list[dict[str, Any]], prefix: str = "", end: str = "\n") -> str:
    """Return an object a line."""
    return "".join(f"{prefix}{json.dumps(one, ensure_ascii=False)}{end}" for one in chunks)


def events(chunks: list[dict[str, Any]]) -> str:
    """Return server-sent events as OpenAI sends them."""
    return lines(chunks, "data: ", "\n\n") + "data: [DONE]\n\n"


FRAMINGS = {
    "events": events(CHUNKS),
    "more events": events([AROUND["role"], *CHUNKS, AROUND["usage"]]),
    "parts": events(MAGISTRAL),
    "messages": events([{"choices": [{"message": {"content": one}}]} for one in PIECES]),
    "old kind": events(LEGACY),
    "escapes": "".join(f"data: {json.dumps(one)}\n\n" for one in CHUNKS),
    "CRLF": events(CHUNKS).replace("\n", "\r\n"),
    "CR": events(CHUNKS).replace("\n", "\r"),
    "no space": events(CHUNKS).replace("data: {", "data:{"),
    "no empty lines": lines(CHUNKS, "data: ") + "data: [DONE]\n",
    "no last empty line": events(CHUNKS).removesuffix("\n"),
    "no last line end": lines(CHUNKS, "data: ", "\n\n").rstrip(),
    "no [DONE]": lines(CHUNKS, "data: ", "\n\n"),
    "many lines": "".join(
        "data: " + json.dumps(one, indent=0).replace("\n", "\ndata: ") + "\n\n" for one in CHUNKS
    ),
    "foreign events": "event: ping\ndata: still here\n\n: comment\n\n"
    + events(CHUNKS).replace("data: {", "event: message\nid: 1\ndata: {")
    + "event: bye\ndata: bye\n\n",
    "NDJSON": lines(CHUNKS),
    "Ollama": lines(OLLAMA),
    "one object": json.dumps(WHOLE, ensure_ascii=False),
    "one object, indented": json.dumps(WHOLE, indent=2) + "\n",
    "one object and [DONE]": json.dumps(WHOLE) + "\n\ndata: [DONE]\n\n",
    "array": json.dumps(CHUNKS, ensure_ascii=False, indent=0),
    "BOM": "\ufeff" + events(CHUNKS),
}


def read(*parts: bytes) -> str:
    """Return the text of a body that comes in these parts."""
    reader, parser = JsonReader(), CompletionParser()
    found = [event for part in parts for event in reader.feed(part)] + reader.finish()
    return "".join(map(parser.feed, found)) + parser.finish()


@pytest.mark.parametrize("name", FRAMINGS)
def test_a_body_may_come_in_two_parts_cut_at_every_byte(name: str) -> None:
    """The text is the same."""
    data = FRAMINGS[name].encode()
    assert {read(data[:cut], data[cut:]) for cut in range(len(data) + 1)} == {TEXT}


@pytest.mark.parametrize("name", ["events", "parts", "many lines", "NDJSON", "one object", "array"])
def test_of_a_body_that_breaks_off_the_beginning_is_shown(name: str) -> None:
    """At every byte; never less than what was shown a byte earlier, and never anything else."""
    data, shown = FRAMINGS[name].encode(), ""
    for cut in range(len(data) + 1):
        text = read(data[:cut])
        assert TEXT.startswith(text.rstrip("\ufffd"))
        assert text.startswith(shown)
        shown = text
    assert shown == TEXT


LABELS = (
    "text/event-stream",
    "application/json",
    "Application/JSON; charset=UTF-8",
    "text/plain",
    "application/x-ndjson",
    "text/html; charset=iso-8859-1",
)


def test_what_a_body_is_shows_in_its_bytes(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Not in its label; nothing of it is said not to be understood but the foreign events."""
    bodies = list(FRAMINGS.values())

    def talk(one: Handler) -> None:
        body(bodies[one.number].encode(), LABELS[one.number % len(LABELS)])(one)

    executor = connect(serve(talk))
    assert {name: ask(executor, "hi") for name in FRAMINGS} == dict.fromkeys(FRAMINGS, TEXT)
    assert caplog.text.count("not understood") == 1
    assert "text in an event named ping; text in an event named bye" in caplog.text
    assert "still here" not in caplog.text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_a_body_may_be_in_another_unicode(serve: Serve, encoding: str) -> None:
    """As programs of Windows write it."""
    for name in ("events", "one object"):
        assert ask(connect(serve(body(FRAMINGS[name].encode(encoding)))), "hi") == TEXT


@pytest.mark.parametrize(("coding", "bits"), [("gzip", 31), ("deflate", 15), ("GZip", 31)])
def test_a_body_may_be_compressed(serve: Serve, coding: str, bits: int) -> None:
    """Though it was not asked for, in single bytes, and broken off between two events."""
    compressor = zlib.compressobj(wbits=bits)
    parts = [
        compressor.compress(one.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH)
        for one in FRAMINGS["events"].splitlines(keepends=True)
    ]
    data = b"".join(parts) + compressor.flush()
    assert ask(connect(serve(body(data, coding=coding, size=1))), "hi") == TEXT
    answer = ask(connect(serve(body(b"".join(parts[:4]), coding=coding))), "hi")
    assert answer == PIECES[0] + PIECES[1] + SIDE_NOTE.format(BROKEN_OFF)


def test_what_an_answer_is_called_is_told_where_it_is_none(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """A page, or bytes in a compression that was not asked for."""
    assert ask(connect(serve(body(b"<html>", "text/html"))), "hi") == catalog.GARBLED
    assert "the answer, called text/html, holds nothing" in caplog.text
    brotli = body(b"\x0b\x02\x80secret\x03", coding="br")
    assert ask(connect(serve(brotli)), "hi") == catalog.GARBLED
    assert "the answer, called text/event-stream, br, holds nothing" in caplog.text
    assert "secret" not in caplog.text


def test_a_last_event_that_only_lacks_its_line_end_is_shown(serve: Serve) -> None:
    """When the connection breaks off right behind it."""

    def talk(one: Handler) -> None:
        one.begin()
        one.raw(lines(CHUNKS[:2], "data: ", "\n\n").encode().rstrip())
        one.break_off()

    answer = ask(connect(serve(talk)), "hi")
    assert answer == "".join(PIECES[:2]) + SIDE_NOTE.format(BROKEN_OFF)


def test_what_is_not_understood_is_said_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """For all chats; by its kind, and no word of it."""
    odd = b'data: {"secret": 1}\n\ndata: secret words\n\ndata: ["secret words"]\n\n'
    executor = connect(serve(events_of(odd + FRAMINGS["events"].encode())))
    assert [ask(executor, "hi"), ask(executor, "hi")] == [TEXT, TEXT]
    said = "an answer held what is not understood: an object with secret; text; str"
    assert caplog.text.count(said) == 1
    assert caplog.text.count("not understood") == 1
    assert "secret words" not in caplog.text


def test_an_answer_in_a_part_that_is_no_text_is_named(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """The user reads that there is no answer, the operator why."""
    picture = events([piece([{"type": "image_url", "image_url": {"url": "secret"}}], "stop")])
    assert ask(connect(serve(events_of(picture.encode()))), "hi") == catalog.NO_ANSWER
    assert "not understood: a part of the type image_url" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "data", [b'data: {"cho', b'{"choices": [{"mess', b'[{"choices": [', b": ping\n\nda"]
)
def test_an_answer_that_breaks_off_before_its_first_word_is_asked_again(
    serve: Serve, data: bytes
) -> None:
    """However it is framed."""

    def talk(one: Handler) -> None:
        (events_of(data) if not one.number else events_of(FRAMINGS["events"].encode()))(one)

    service = serve(talk)
    assert ask(connect(service), "hi") == TEXT
    assert len(service.chats) == 2


def test_a_damaged_event_does_not_take_the_text_before_it(serve: Serve) -> None:
    """Nor is it passed over in silence."""
    data = lines(CHUNKS[:2], "data: ", "\n\n") + "data: {oops}\n\n" + events(CHUNKS)
    answer = ask(connect(serve(events_of(data.encode()))), "hi")
    assert answer == "".join(PIECES[:2]) + "\n" + catalog.GARBLED


def test_a_model_list_may_be_an_array(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """As Together's, or be called models."""
    for listed in (
        [{"id": "gpt-4o", "context_length": 77}],
        {"models": [{"id": "gpt-4o", "context_length": 77}]},
    ):
        service = serve(events_of(b""))
        service.models_body = listed
        assert connect(service).context_window("gpt-4o") == 77
    assert "lists no model" not in caplog.text
