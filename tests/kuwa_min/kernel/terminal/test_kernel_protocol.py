"""Answers of a Kernel, raw and framed; its encoders are the judges."""

from __future__ import annotations

import pytest

from kuwa_min.chat.chunks import (
    BaseChunk,
    ExitCodeChunk,
    ImageURLChunk,
    LogChunk,
    LogLevel,
    ProgressChunk,
    RefusalChunk,
    TextChunk,
)
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.kernel.forms import parse_form
from kuwa_min.kernel.protocol import parse_chat_request
from kuwa_min.kernel.terminal import kernel_protocol
from kuwa_min.kernel.terminal.answer import (
    FAILED,
    LENGTH,
    NOTE,
    PROGRESS,
    TEXT,
    Event,
    Finish,
    Piece,
    ServerError,
    Usage,
)
from kuwa_min.kernel.terminal.kernel_protocol import AnswerReader
from kuwa_min.kernel.wire import AnswerEncoder, AnswerEnd, FramedEncoder, RawEncoder


def encoded(encoder: AnswerEncoder, chunks: list[BaseChunk], end: AnswerEnd) -> str:
    """Return an answer as an executor sends it."""
    pieces = [one for chunk in chunks for one in encoder.encode_chunks([chunk])]
    pieces += [one.data for one in encoder.encode_end(end)]
    sent = [encoder.encode_text(one) if isinstance(one, str) else one for one in pieces]
    return b"".join(sent).decode()


def read(text: str) -> list[Event]:
    """Read it a character at a time."""
    reader = AnswerReader()
    events = [one for character in text for one in reader.feed(character)]
    return [*events, *reader.end()]


def joined(events: list[Event], kind: str) -> str:
    """Return the text of a kind."""
    return "".join(one.text for one in events if isinstance(one, Piece) and one.kind == kind)


@pytest.mark.parametrize("kind", [RawEncoder, FramedEncoder])
def test_text_and_side_notes_are_told_apart(kind: type[RawEncoder | FramedEncoder]) -> None:
    """In both formats, with a `<` at the end that is none of a note."""
    note = SIDE_NOTE.format("the note")
    sent = encoded(kind(chat_room=True), [TextChunk(f"a < 你 {note} b <")], AnswerEnd())
    events = read(sent)
    assert joined(events, TEXT).rstrip("\n") == "a < 你  b <"
    assert joined(events, NOTE) == "the note"


def test_what_else_0_4_sends_is_read() -> None:
    """A log, progress, a picture, counts, and how it ended."""
    chunks = [
        ProgressChunk(0, 0, "loading"),
        TextChunk("hi"),
        LogChunk("look out", LogLevel.WARNING),
        ImageURLChunk("https://example.org/a.png"),
    ]
    end = AnswerEnd(ExitCodeChunk.INCOMPLETE, prompt_tokens=3, completion_tokens=1)
    events = read(encoded(FramedEncoder(chat_room=True), chunks, end))
    assert Piece(PROGRESS, "loading") in events
    assert joined(events, TEXT) == "hi"
    assert joined(events, NOTE) == "[WARNING] look outhttps://example.org/a.png"
    assert Usage(3, 1) in events
    assert events[-1] == Finish(LENGTH)


def test_a_failure_is_no_good_end() -> None:
    """The sentence is a log line."""
    end = AnswerEnd(ExitCodeChunk.FAILURE, "It failed.")
    events = read(encoded(FramedEncoder(chat_room=True), [], end))
    assert "It failed." in joined(events, NOTE)
    assert events[-1] == Finish(FAILED)


def test_a_refusal_is_shown_once() -> None:
    """Our executors send it as text, too; others may not."""
    ours = encoded(FramedEncoder(chat_room=True), [RefusalChunk("no")], AnswerEnd())
    assert joined(read(ours), TEXT) == "no"
    other = 'data: {"delta": [{"type": "refusal", "refusal": {"text": "no"}}]}\n'
    assert joined(read(other), TEXT) == "no"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("", ""),
        ('data: {"', 'data: {"\n'),
        ("data:", "data:"),
        ('data: {"delta": 3}\nnonsense\n', "nonsense\n"),
        ('data: {"delta": [1, {"text": 2}, {"exit_code": "x"}], "usage": 3}\n', ""),
    ],
)
def test_what_is_no_frame_is_text(answer: str, text: str) -> None:
    """Nothing of it is lost, and nothing fails."""
    assert joined(read(answer), TEXT) == text


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill the memory."""
    monkeypatch.setattr(kernel_protocol, "LONGEST_LINE", 10)
    with pytest.raises(ServerError, match="without an end"):
        list(AnswerReader().feed('data: {"' + "x" * 20))


def test_a_form_reads_as_an_executor_reads_it() -> None:
    """History and system prompt."""
    ids = {"name": "n", "history_id": "1", "user_id": "2"}
    form = kernel_protocol.chat_form(
        ids,
        [
            {"role": "user", "content": "a & b"},
            {"role": "assistant", "content": "c"},
            {"role": "user", "content": "你"},
        ],
        "be brief",
    )
    chat = parse_chat_request(parse_form(form, "application/x-www-form-urlencoded"), None)
    assert [one["content"] for one in chat.history if one["role"] != "system"] == [
        "a & b",
        "c",
        "你",
    ]
    assert chat.modelfile.override_system_prompt == "be brief"
    assert chat.form["user_id"] == "2"
    assert kernel_protocol.abort_form(ids) == b"history_id=%5B1%5D&user_id=2"


def test_a_list_of_executors_that_is_none_is_an_error() -> None:
    """And a good one gives names."""
    assert kernel_protocol.access_codes(b'["a"]') == ["a"]
    for body in (b"{}", b"<html>"):
        with pytest.raises(ServerError):
            kernel_protocol.access_codes(body)
