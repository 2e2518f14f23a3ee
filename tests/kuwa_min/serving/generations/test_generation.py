"""Answers over real HTTP on both wires: text, chunks, failures, stops, tokens, side notes."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from backends._cloud.sentences import CUT_BY_LENGTH
from kuwa_min.chat import catalog
from kuwa_min.chat.chunks import (
    ExitCodeChunk,
    LogChunk,
    LogLevel,
    Piece,
    ProgressChunk,
    RefusalChunk,
    TextChunk,
)
from kuwa_min.chat.sentence import ON_NEW_LINE, join_sentences
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.errors import UNEXPECTED, AnswerError
from kuwa_min.httpd.body_writer import BodyWriter
from kuwa_min.kernel import wire
from kuwa_min.kernel.protocol import ChatRequest
from kuwa_min.options.sentences import MUST_BE_NUMBER, OPTION_REASON
from kuwa_min.serving import usage
from kuwa_min.serving.generations import piece_writer
from tests.kuwa_min.serving.test_routes import Compute, Running, running
from tests.support.front_end_readers import BEGIN, END, deltas, room_03, room_04
from tests.support.programs import call, fetch, said, until

LONG = 60.0
TOKEN = "the-users-token"
FRAMED = {"X-Kuwa-Api-Base-Urls": ""}
PURE = {**FRAMED, "X-Kuwa-Thoughts": "apart"}
ROOM = said("x", history_id="7")
NOTE = f"{BEGIN}note{END}"


def yielding(*pieces: Any, error: Exception | None = None) -> Compute:
    """Return a backend that yields these pieces, then raises this error."""

    async def compute(_: ChatRequest) -> AsyncGenerator[Piece, None]:
        for piece in pieces:
            yield piece
        if error is not None:
            raise error

    return compute


async def endless(_: ChatRequest) -> AsyncGenerator[Piece, None]:
    """Say one word, then wait for a stop."""
    yield "word"
    await asyncio.Event().wait()


def blocking(release: threading.Event) -> Compute:
    """Return a backend that blocks after a word, whatever stops it."""

    async def compute(_: ChatRequest) -> AsyncGenerator[Piece, None]:
        yield "word"
        release.wait(LONG)

    return compute


def framed(compute: Compute) -> bytes:
    """Return what a room of 0.4 is sent."""
    with running(compute) as one, call(one.chat, ROOM, fields=FRAMED) as response:
        assert response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        return response.read()


def raw(compute: Compute, **form: str) -> str:
    """Return what a script is sent."""
    with running(compute) as one:
        status, text = fetch(one.chat, said("x", **form))
    assert status == 200
    return text


def last(body: bytes) -> dict[str, Any]:
    """Return the last line of a framed answer; it is the only one that ends it."""
    lines = [json.loads(line[len(b"data: ") :]) for line in body.splitlines()]
    assert [line["finish_reason"] for line in lines[:-1]] == [None] * (len(lines) - 1)
    assert not any("usage" in line for line in lines[:-1])
    return dict(lines[-1])


def ended(body: bytes) -> tuple[str, int, int]:
    """Return finish reason, exit code and completion tokens of a framed answer."""
    line = last(body)
    return line["finish_reason"], line["delta"][-1]["exit_code"], line["usage"]["completion_tokens"]


# -- pieces


def test_lines_come_in_the_order_of_the_pieces() -> None:
    """Text is gathered between other chunks, never across them."""
    pieces = ["a", TextChunk("b"), ProgressChunk(1, 2), "c", LogChunk("l"), "d", [TextChunk("e")]]
    found = [
        one.get("text", {}).get("value", one["type"])
        for line in deltas(framed(yielding(*pieces)))
        for one in line
    ]
    assert "".join(found) == "abprogressclogdeexit_code"
    assert found.index("log") + 1 < len(found)


def test_a_list_is_one_line_and_text_beside_it_another() -> None:
    """Elements may be text as well."""
    lines = deltas(framed(yielding("a", ["b", TextChunk("c")], "d", [])))
    assert [[one["text"]["value"] for one in line] for line in lines if len(line) == 2] == [
        ["b", "c"]
    ]
    assert lines[-2] == []


def test_an_answer_that_looks_like_frames_arrives_to_the_byte() -> None:
    """On both wires, in pieces of one character."""
    text = 'data: {"delta": []}\ndata: [DONE]\n\ndata: 中文 😀\r\n'
    assert room_04(framed(yielding(*text))).text == text
    assert raw(yielding(*text)) == text


def test_the_first_piece_does_not_wait_and_others_are_gathered() -> None:
    """The front end publishes the whole text so far at each line."""
    release = threading.Event()

    async def compute(_: ChatRequest) -> AsyncGenerator[Piece, None]:
        yield "first"
        release.wait(LONG)
        for _number in range(5000):
            yield "x"

    with running(compute) as one, call(one.chat, ROOM, fields=FRAMED) as response:
        line = response.readline()
        release.set()
        rest = response.read()
    assert room_04(line).text == "first"
    shown = room_04(rest)
    assert shown.text == "x" * 5000
    assert shown.updates < 1000


def test_slow_pieces_are_an_update_each() -> None:
    """67 Chinese characters without a newline, each after the one before it was read."""
    text, taken = "繁體中文字" * 13 + "結束", threading.Semaphore(0)

    async def compute(_: ChatRequest) -> AsyncGenerator[Piece, None]:
        for character in text:
            yield character
            taken.acquire(timeout=LONG)

    with running(compute) as one, call(one.chat, ROOM, fields=FRAMED) as response:
        for character in text:
            assert room_04(response.readline()).text == character
            taken.release()
        assert ended(response.read()) == ("stop", 0, 67)


def test_the_raw_wire_shows_chunks_as_text() -> None:
    """What a user of 0.3 can read."""
    pieces = ["a", LogChunk("l", LogLevel.NOTICE), [RefusalChunk("r"), "b"], ExitCodeChunk(5)]
    assert raw(yielding(*pieces, ProgressChunk(1, 1), "")) == "a\n[NOTICE] lrb"


def test_a_long_silence_is_broken_where_no_progress_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By newlines before the first word only: on 0.3, and for clients of 0.4's API."""
    sign = ProgressChunk(1, 0, "Thinking")
    assert raw(yielding(sign, sign, "a", sign, "b")) == "ab"
    monkeypatch.setattr(piece_writer, "QUIET", 0.0)
    assert raw(yielding(sign, sign, "a", sign, "b")) == "\n\nab"
    lines = deltas(framed(yielding(sign, "a")))
    assert [[one["type"] for one in line] for line in lines] == [
        ["progress"],
        ["text"],
        ["exit_code"],
    ]
    with (
        running(yielding(sign, "a", sign)) as one,
        call(one.chat, said("x"), fields=FRAMED) as api,
    ):
        texts = [
            each["text"]["value"] for line in deltas(api.read()) for each in line if "text" in each
        ]
    assert "".join(texts) == "\na"


@pytest.mark.parametrize(
    ("piece", "cause"),
    [
        (b"bytes", "bytes instead of str or a chunk"),
        (7, "int instead of"),
        (None, "NoneType instead of"),
        ([b"x"], "bytes instead of"),
        ([["x"]], "list instead of"),
        (("x",), "tuple instead of"),
        (TextChunk(None), "a TextChunk of NoneType instead of str"),  # type: ignore[arg-type]
        (RefusalChunk(7), "a RefusalChunk of int instead of str"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_piece_is_a_failure(
    piece: Any, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the type; the user reads an apology."""
    assert raw(yielding("before", piece)) == f"before{UNEXPECTED}"
    assert ended(framed(yielding("before", piece))) == ("exception", 1024, 6)
    assert caplog.text.count(f"PieceError: llm_compute yielded {cause}") == 2


# -- how answers end


def test_an_answer_ends_with_the_last_exit_code() -> None:
    """Each is a line at once; 0 if there is none."""
    codes = [ExitCodeChunk(7), ExitCodeChunk(9)]
    body = framed(yielding("a", *codes))
    sent = [one[0]["exit_code"] for one in deltas(body) if one[0]["type"] == "exit_code"]
    assert sent == [7, 9, 9]
    assert ended(body) == ("stop", 9, 1)
    assert ended(framed(yielding())) == ("stop", 0, 0)


def test_a_failure_is_an_exception_whatever_exit_code_came_before() -> None:
    """The sentence is a log; there is never a traceback."""
    body = framed(yielding("before ", ExitCodeChunk(1), error=ValueError("secret")))
    assert ended(body) == ("exception", 1024, 7)
    assert room_04(body).text == f"before \n[ERROR] {UNEXPECTED}"
    assert b"secret" not in body
    assert b"Traceback" not in body


def test_an_exception_without_a_readable_message_is_a_failure_like_others() -> None:
    """Its __str__ raises; the endpoint and the slot are free for the next chat."""

    class Unreadable(Exception):
        def __str__(self) -> str:
            raise LookupError

    compute = yielding("before ", error=Unreadable())
    with running(compute) as one:
        for _ in range(2):
            assert fetch(one.chat, said("x")) == (200, f"before {UNEXPECTED}")


def test_a_sentence_for_the_user_is_text_and_a_failure_for_agents() -> None:
    """It ends with "stop"."""
    body = framed(yielding("a", error=AnswerError("[No.]")))
    assert room_04(body).text == "a[No.]"
    assert ended(body)[:2] == ("stop", 1024)
    assert raw(yielding("a", error=AnswerError("[No.]"))) == "a[No.]"


def test_a_sentence_is_not_part_of_a_note_that_was_begun() -> None:
    """The note ends before it."""
    body = framed(yielding(f"{BEGIN}half", error=AnswerError("[No.]")))
    assert room_04(body)[:3] == ("[No.]", ["half"], 1024)


def test_a_client_of_ours_gets_our_sentences_apart_from_the_models_text() -> None:
    """In its language; those in place of a whole answer, and those behind half of one."""
    sentence = ON_NEW_LINE.format(catalog.TOO_LONG)
    compute = yielding("half", catalog.ONLY_THOUGHT, error=AnswerError(sentence))
    fields = {**PURE, "Accept-Language": "zh-TW"}
    with running(compute) as one, call(one.chat, ROOM, fields=fields) as response:
        body = response.read()
    logged = f"[ERROR] {catalog.TOO_LONG.render('zh')}"
    shown = room_04(body)
    assert shown.text == f"half\n{logged}"
    assert shown.notes == [catalog.ONLY_THOUGHT.render("zh")]
    assert ended(body)[:2] == ("stop", 1024)


@pytest.mark.parametrize("block", [False, True])
def test_an_abort_ends_well(block: bool) -> None:
    """Also if the backend blocks; the last line comes in any case."""
    release = threading.Event()
    compute = blocking(release) if block else endless
    with running(compute) as one, call(one.chat, ROOM, fields=FRAMED) as response:
        first = response.readline()
        fetch(f"{one.chat}/abort")
        rest = response.read()
        release.set()
    assert room_04(first).text == "word"
    assert ended(rest) == ("stop", 0, 4)
    assert len(rest.splitlines()) == 1


@pytest.mark.parametrize(
    ("pieces", "history", "language", "left"),
    [
        ([], "7", "en_us", catalog.STOPPED),
        (["", " \n", ProgressChunk(1, 2)], "7", "en_us", catalog.STOPPED),
        ([], "7", "zh_tw", catalog.STOPPED.render("zh")),
        ([LogChunk("loud")], "7", "en_us", "[INFO] loud"),
        (["a"], "7", "en_us", "a"),
        ([], "-7", "en_us", ""),
        ([], "", "en_us", ""),
    ],
)
@pytest.mark.parametrize("fields", [FRAMED, PURE, {}])
@pytest.mark.parametrize("block", [False, True])
def test_a_room_whose_answer_is_stopped_before_its_text_gets_a_sentence(
    pieces: list[Any], history: str, language: str, left: str, fields: dict[str, str], block: bool
) -> None:
    """The front ends would call it a fault of the model; clients of ours need no sentence."""
    if fields == PURE and left in (catalog.STOPPED, catalog.STOPPED.render("zh")):
        left = ""
    begun, release = threading.Event(), threading.Event()

    async def compute(_: ChatRequest) -> AsyncGenerator[Piece, None]:
        for piece in pieces:
            yield piece
        begun.set()
        if block:
            release.wait(LONG)
        await asyncio.Event().wait()

    headers = {**fields, "Accept-Language": language}
    with running(compute) as one:
        with call(one.chat, said("x", history_id=history), fields=headers) as response:
            assert begun.wait(LONG)
            fetch(f"{one.chat}/abort")
            body = response.read()
        release.set()
    if fields:
        assert ended(body)[:2] == ("stop", 0)
    text = room_04(body).text if fields else body.decode()
    assert text.strip() == left


def test_an_answer_ends_once_although_its_orphan_ends_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Let the backend go when the abort makes the last line."""
    release, endings, make = (
        threading.Event(),
        list[wire.AnswerEnd](),
        wire.FramedEncoder.encode_end,
    )

    def ending(self: wire.FramedEncoder, end: wire.AnswerEnd) -> list[wire.TimedWrite]:
        endings.append(end)
        release.set()
        until(lambda: one.value("executor_framework_busy_slots") == 0)
        return make(self, end)

    monkeypatch.setattr(wire.FramedEncoder, "encode_end", ending)
    compute = blocking(release)
    with running(compute, on_loop=False) as one:
        with call(one.chat, ROOM, fields=FRAMED) as response:
            first = response.readline()
            fetch(f"{one.chat}/abort")
            rest = response.read()
        until(lambda: not one.slots._flushing)
    assert ended(first + rest) == ("stop", 0, 4)
    assert len(endings) == 1


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize(
    ("language", "note"),
    [("en", catalog.CUT_SHORT), ("zh_tw", catalog.CUT_SHORT.render("zh"))],
)
def test_an_answer_that_is_cut_short_is_incomplete(block: bool, language: str, note: str) -> None:
    """A note says so, in the user's language."""
    release = threading.Event()
    compute = blocking(release) if block else endless
    fields = {**FRAMED, "Accept-Language": language}
    with running(compute) as one, call(one.chat, ROOM, fields=fields) as response:
        first = response.readline()
        one.slots.close()
        one.slots.drain(0)
        body = first + response.read()
        release.set()
    assert room_04(body)[:3] == ("word", [note], 1)
    assert ended(body) == ("stop", 1, 4)


def test_our_sentences_are_in_the_users_language_and_others_unchanged() -> None:
    """Side notes, and the sentence that ends the answer with its reason, on both wires."""
    reason = OPTION_REASON.format("top_p", MUST_BE_NUMBER)
    sentence = ON_NEW_LINE.format(catalog.BAD_OPTION.format(reason))
    note = SIDE_NOTE.format(join_sentences([CUT_BY_LENGTH, "own words"]))
    compute = yielding("text", note, TextChunk(catalog.STOPPED), error=AnswerError(sentence))
    said_in_chinese = "text[已在回答開始前停止。]\n[無法使用選項 llm_top_p：必須是數字。]"
    noted = "回答已達長度上限，因此被截斷。 own words"
    fields = {"Accept-Language": "zh-TW"}
    with running(compute) as one:
        with call(one.chat, ROOM, fields={**FRAMED, **fields}) as response:
            assert room_04(response.read())[:2] == (said_in_chinese, [noted])
        raw_text = fetch(one.chat, said("x"), fields=fields)[1]
        assert raw_text == f"{said_in_chinese}\n{BEGIN}{noted}{END}"


# -- tokens


def test_usage_is_what_the_backend_counted() -> None:
    """Also where it counts in two steps."""

    async def compute(_: ChatRequest) -> AsyncGenerator[Piece, None]:
        usage.count(11, 0)
        yield "text"
        usage.count(0, 3)

    expected = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    assert last(framed(compute))["usage"] == expected


def test_without_tokens_usage_counts_characters() -> None:
    """A chunk adds its cost."""
    pieces = ["ab", TextChunk("cd"), TextChunk("ef", cost=10), [TextChunk("gh", ["x"], cost=0)]]
    body = framed(yielding(*pieces, LogChunk("log"), ExitCodeChunk(0, cost=100)))
    expected = {"prompt_tokens": 0, "completion_tokens": 114, "total_tokens": 114}
    assert last(body)["usage"] == expected


# -- side notes


def test_a_note_comes_behind_the_text_character_by_character() -> None:
    """As Kuwa's dummy executor sends it."""
    answer = f"Hello\n{NOTE}\nworld\n{NOTE}"
    shown = room_04(framed(yielding(*answer)))
    assert shown[:3] == ("Hello\n\nworld\n", ["note\nnote"], 0)
    assert raw(yielding(*answer)) == f"Hello\n\nworld\n\n{BEGIN}note\nnote{END}"


def test_a_note_is_a_line_of_its_own() -> None:
    """Nothing stands before or behind it."""
    lines = deltas(framed(yielding("a", NOTE, "b", [TextChunk(f"c{NOTE}d"), ProgressChunk(1, 1)])))
    assert lines[-2] == [TextChunk(f"{BEGIN}note\nnote{END}").__jsonencode__()]
    assert "WARNING" not in json.dumps(lines[:-2])


def test_a_long_note_comes_with_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece every 4 s of a fake clock: on 0.4's wire an empty line every 12, on 0.3's nothing."""
    clock = [time.monotonic() + 1000.0]  # later than all that the real one says meanwhile

    async def compute(_: ChatRequest) -> AsyncGenerator[Piece, None]:
        yield "before"
        yield BEGIN
        for _number in range(9):
            clock[0] += 4.0
            yield "thought "
        yield END

    monkeypatch.setattr(piece_writer, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    lines = deltas(framed(compute))
    assert lines.count([]) == 3
    assert next(line for line in lines if line) == [TextChunk("before").__jsonencode__()]
    assert raw(compute) == f"before\n{BEGIN}{('thought ' * 9).strip()}{END}"


def test_a_room_of_0_3_recognises_the_note_that_comes_with_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The slot is free meanwhile. Here a pause begins once the room has read all before it."""
    come: list[tuple[float, bytes]] = []
    before_pauses, clock = iter((b"text \n", b"<<</WARNING>")), [0.0]

    def pause(_: BodyWriter, seconds: float) -> None:
        end = next(before_pauses)
        until(lambda: b"".join(data for _, data in come).endswith(end))
        clock[0] += seconds

    monkeypatch.setattr(BodyWriter, "pause", pause)
    with running(yielding("text ", NOTE)) as one, call(one.chat, ROOM) as response:
        while data := response.read1():
            if len(come) == 2:
                assert one.slots.active() == []
            come.append((clock[0], data))
    assert next(before_pauses, None) is None
    shown = room_03(come, lag=lambda: 0.0)
    assert shown[:2] == ("text", ["note"])


@pytest.mark.parametrize("leave", [False, True])
def test_pauses_end_when_the_process_does_or_the_client_leaves(
    leave: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost for a client that stays."""
    monkeypatch.setattr(wire, "WINDOW_PAUSE", 3600.0)
    with running(yielding("text", NOTE)) as one:
        with call(one.chat, ROOM) as response:
            assert response.read(4) == b"text"
            until(lambda: not one.slots.active())
            if not leave:
                one.slots.close()
                assert response.read().decode() == f"\n\n{NOTE}"
        one.slots.close()
        drain = threading.Thread(target=one.slots.drain, args=(LONG,))
        drain.start()
        drain.join(LONG)
        assert not drain.is_alive()


def test_a_disconnect_during_a_pause_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drain does not wait for the rest."""
    monkeypatch.setattr(wire, "WINDOW_PAUSE", 3600.0)
    with running(yielding("text", NOTE)) as one:
        with call(one.chat, ROOM) as response:
            assert response.read(4) == b"text"
        until(lambda: not one.slots._flushing)


# -- the log


def test_nothing_logs_the_users_token(caplog: pytest.LogCaptureFixture) -> None:
    """It comes in a header and in the form."""
    caplog.set_level(logging.DEBUG)
    form, fields = said("x", user_token=TOKEN), {"X-Kuwa-Api-Token": TOKEN}
    with running(yielding("a", error=ValueError("no"))) as one:
        fetch(one.chat, form, fields=fields)
        fetch(f"{one.base}/nowhere", form, fields=fields)
    assert caplog.text
    assert TOKEN not in caplog.text


def test_the_log_holds_content_of_all_pieces_if_asked_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Text unchanged, chunks as their JSON."""
    caplog.set_level(logging.INFO)
    one = Running(yielding("some", TextChunk("text", ["x"]), LogChunk("a log")), 1, lambda: None)
    one.generations._log_content = True
    with one.server:
        fetch(one.chat, ROOM)
    assert "out: some" in caplog.text
    assert "out: text" in caplog.text
    assert "'text': 'a log'" in caplog.text


# -- what is never framed


def test_refusals_and_other_routes_are_not_framed() -> None:
    """Whatever the headers say."""
    with running(endless) as one, call(one.chat, ROOM, fields=FRAMED) as response:
        response.readline()
        assert fetch(one.chat, ROOM, fields=FRAMED)[1].startswith('{"msg"')
        assert fetch(one.chat, {}, fields=FRAMED)[1].startswith('{"msg"')
        assert fetch(f"{one.base}/health", fields=FRAMED) == (204, "")
        assert fetch(f"{one.base}/metrics", fields=FRAMED)[1].startswith("# ")
        assert fetch(f"{one.chat}/abort", fields=FRAMED)[1] == '{"msg":"Aborted"}'
