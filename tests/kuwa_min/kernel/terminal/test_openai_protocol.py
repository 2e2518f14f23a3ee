"""Server-sent events of servers as they are, and of hostile ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kuwa_min.kernel.terminal.answer import (
    NOTE,
    TEXT,
    THOUGHT,
    Answer,
    Finish,
    Piece,
    ServerError,
    Usage,
)
from kuwa_min.kernel.terminal.openai_protocol import (
    EventReader,
    chat_request,
    error_message,
    model_names,
)


def event(**fields: Any) -> str:
    """Return one event."""
    return f"data: {json.dumps(fields)}\n\n"


def test_an_answer_is_read_however_it_is_cut() -> None:
    """Comments, thoughts, text, the end, side notes and usage, a character at a time."""
    stream = (
        ": the answer is being made\n\n"
        + event(choices=[{"delta": {"role": "assistant", "content": ""}}])
        + event(choices=[{"delta": {"reasoning_content": "hm"}}])
        + event(choices=[{"delta": {"content": "hi\n你"}, "finish_reason": None}]).replace(
            "\n\n", "\r\n\r\n"
        )
        + event(choices=[{"delta": {}, "finish_reason": "stop"}], side_notes=["n"])
        + event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 2})
        + "data: [DONE]\n\n"
    )
    reader = EventReader()
    events = [one for character in stream for one in reader.feed(character)]
    assert events == [
        Piece(THOUGHT, "hm"),
        Piece(TEXT, "hi\n你"),
        Finish("stop"),
        Piece(NOTE, "n"),
        Usage(5, 2),
    ]
    assert reader.is_done


def test_a_stream_without_its_end_is_known() -> None:
    """The connection broke off."""
    reader = EventReader()
    assert list(reader.feed(event(choices=[{"delta": {"content": "a"}}]))) == [Piece(TEXT, "a")]
    assert not reader.is_done


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (event(error={"message": "no more"}), "no more"),
        (event(error="no more"), "no more"),
        (event(error={"code": 1}), "failed"),
        ("data: <html>\n", "no event"),
        ("data: " + "[" * 100_000 + "\n", "no event"),
    ],
)
def test_errors_within_a_stream_are_raised(line: str, message: str) -> None:
    """In whatever shape."""
    with pytest.raises(ServerError, match=message):
        list(EventReader().feed(line))


@pytest.mark.parametrize(
    "line",
    [
        "data: 1\n",
        event(choices=3),
        event(choices=[None, {"delta": [], "message": {"content": 1}}]),
        event(side_notes=7, usage=[], choices=None),
        "event: x\n",
    ],
)
def test_what_is_not_understood_is_ignored(line: str) -> None:
    """Other types than expected."""
    assert list(EventReader().feed(line)) == []


def test_a_whole_answer_is_read_too() -> None:
    """Of a server that does not stream."""
    answer, message = Answer(), {"role": "assistant", "content": "hi"}
    whole = {"choices": [{"message": message, "finish_reason": "length"}]}
    for one in EventReader().read_object(json.dumps(whole)):
        answer.add(one)
    assert (answer.text, answer.finish_reason) == ("hi", "length")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "m", "code": null}}', "m"),
        (b'{"error": "m"}', "m"),
        (b'{"detail": "m"}', "m"),
        (b'{"msg": "m"}', "m"),
        (b"m", "m"),
        (b"<html>", ""),
        (b"{}", ""),
        (b"[1]", ""),
    ],
)
def test_the_sentence_of_an_error_is_found(body: bytes, message: str) -> None:
    """OpenAI's shape, FastAPI's, the Kernel's, plain text; of a proxy's page nothing."""
    assert error_message(body) == message


def test_the_system_prompt_comes_first() -> None:
    """In a request that streams."""
    sent = json.loads(chat_request("m", [{"role": "user", "content": "u"}], "s"))
    assert [one["role"] for one in sent["messages"]] == ["system", "user"]
    assert sent["stream"]
    assert [one["role"] for one in json.loads(chat_request("m", [], ""))["messages"]] == []


def test_a_list_of_models_that_is_none_is_an_error() -> None:
    """And a good one gives names."""
    assert model_names(b'{"data": [{"id": "a"}, {"id": "b"}]}') == ["a", "b"]
    for body in (b"[]", b"{}", b"x", b'{"data": [1]}'):
        with pytest.raises(ServerError):
            model_names(body)
