"""Both wires: which one a request gets, and the bytes that Kuwa's own executor sends."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable

import pytest

from kuwa_min.chat.chunks import (
    AudioURLChunk,
    BaseChunk,
    ExitCodeChunk,
    ImageURLChunk,
    LogChunk,
    LogLevel,
    ProgressChunk,
    RefusalChunk,
    TextChunk,
    ThoughtChunk,
)
from kuwa_min.kernel import wire
from kuwa_min.kernel.wire import AnswerEncoder, AnswerEnd, FramedEncoder, RawEncoder
from tests.support.front_end_readers import BEGIN, END, api_04, room_03, room_04

STAMP = "2026-11-29T12:31:37.371780+00:00"
NULL = 'data: {"finish_reason": null, "delta": '
TEXT = NULL + '[{"type": "text", "text": {"value": "%s", "annotations": []}}]}\n'
RECORDED_TEXT = [  # the text, and what stands between the quotes
    (
        'plain str 中文 "q" \\ / \n\t😀 \x01 end',
        r"plain str \u4e2d\u6587 \"q\" \\ / \n\t\ud83d\ude00 \u0001 end",
    ),
    ("", ""),
    ("0 ", "0 "),
    ("data: not a frame\ndata: {}", r"data: not a frame\ndata: {}"),
    ("\x7f\u2028\x00", r"\u007f\u2028\u0000"),
    ("한글", r"\ud55c\uae00"),  # \ud5.. is no surrogate
]
RECORDED_CHUNKS = [
    (
        [TextChunk("text chunk", [{"a": 1}])],
        '[{"type": "text", "text": {"value": "text chunk", "annotations": [{"a": 1}]}}]',
    ),
    (
        [LogChunk("log line", LogLevel.WARNING, STAMP)],
        '[{"type": "log", "log": {"text": "log line", "level": "WARNING", "timestamp": '
        '"2026-11-29T12:31:37.371780+00:00"}}]',
    ),
    (
        [ProgressChunk(3, 10, "desc", "postfix")],
        '[{"type": "progress", "progress": {"position": 3, "total": 10, "desc": "desc", '
        '"postfix": "postfix"}}]',
    ),
    (
        [ProgressChunk(3, 10)],
        '[{"type": "progress", "progress": {"position": 3, "total": 10, "desc": null, '
        '"postfix": null}}]',
    ),
    ([ImageURLChunk("http://x/y.png")], '[{"type": "image_url", "image_url": "http://x/y.png"}]'),
    ([AudioURLChunk("http://x/y.mp3")], '[{"type": "audio_url", "audio_url": "http://x/y.mp3"}]'),
    (
        [TextChunk("two "), TextChunk("in one list")],
        '[{"type": "text", "text": {"value": "two ", "annotations": []}}, '
        '{"type": "text", "text": {"value": "in one list", "annotations": []}}]',
    ),
    ([], "[]"),
    ([TextChunk("")], '[{"type": "text", "text": {"value": "", "annotations": []}}]'),
    ([ExitCodeChunk(1)], '[{"type": "exit_code", "exit_code": 1}]'),
]
RECORDED_ENDINGS = [
    (
        AnswerEnd(1, "", 0, 155),
        '{"finish_reason": "stop", "delta": [{"type": "exit_code", "exit_code": 1}], '
        '"usage": {"prompt_tokens": 0, "completion_tokens": 155, "total_tokens": 155}}',
    ),
    (
        AnswerEnd(0, "", 5, 2),
        '{"finish_reason": "stop", "delta": [{"type": "exit_code", "exit_code": 0}], '
        '"usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}',
    ),
]


# -- which wire


@pytest.mark.parametrize(
    ("option", "fields", "kind"),
    [
        ("auto", {}, RawEncoder),
        ("auto", {"host", "accept-language"}, RawEncoder),
        ("auto", {"x-kuwa-api-base-urls"}, FramedEncoder),
        ("auto", {"x-kuwa-user-id"}, FramedEncoder),
        ("auto", {"x-kuwa-api-token"}, FramedEncoder),
        ("0.3", {"x-kuwa-user-id"}, RawEncoder),
        ("0.4", {}, FramedEncoder),
    ],
)
def test_the_front_end_says_by_its_headers_which_wire_it_reads(
    option: str, fields: set[str], kind: type
) -> None:
    """One of three is enough, whatever its value; the option decides for all requests."""
    assert type(wire.choose_encoder(option, fields, chat_room=True)) is kind


@pytest.mark.parametrize(
    ("history_id", "is_room"),
    [("7", True), ("070", True), ("0", False), ("-7", False), ("", False), ("x", False)],
)
def test_a_room_has_a_positive_history_id(history_id: str, is_room: bool) -> None:
    """API clients have negative ones, scripts perhaps none."""
    assert wire.is_chat_room(history_id) is is_room
    assert wire.is_chat_room(None) is False


# -- the lines of 0.4


@pytest.mark.parametrize(("text", "escaped"), RECORDED_TEXT)
def test_text_becomes_a_line_as_recorded(text: str, escaped: str) -> None:
    """Escapes and spaces are those of json.dumps."""
    line = FramedEncoder(chat_room=True).encode_text(text)
    assert line.decode("ascii") == TEXT % escaped
    assert api_04(line).text == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ude00", "😀"),
        ("😀\ud83d😀", "😀\ufffd😀"),
        ("\\ud800", "\\ud800"),
        ("\\\ud800", "\\\ufffd"),
        ("\\\\ud800\\u4e2d", "\\\\ud800\\u4e2d"),
    ],
)
def test_a_lone_surrogate_is_replaced(text: str, left: str) -> None:
    """The front end drops a line that has one; what only looks like an escape stays."""
    one = FramedEncoder(chat_room=True)
    (line,) = one.encode_chunks([LogChunk(text), TextChunk(text, [text])])
    assert isinstance(line, bytes)
    log, said = json.loads(line[len("data: ") :])["delta"]
    assert (log["log"]["text"], said["text"]) == (left, {"value": left, "annotations": [left]})
    assert api_04(one.encode_text(text)).text == left
    assert RawEncoder(chat_room=True).encode_text(text).decode() == left


@pytest.mark.parametrize(("chunks", "delta"), RECORDED_CHUNKS)
def test_chunks_become_a_line_as_recorded(chunks: list[BaseChunk], delta: str) -> None:
    """A list that was yielded is one line."""
    assert FramedEncoder(chat_room=True).encode_chunks(chunks) == [f"{NULL}{delta}}}\n".encode()]


@pytest.mark.parametrize(
    ("fields", "delta"),
    [
        ({"x-kuwa-user-id"}, None),
        ({"x-kuwa-user-id", "x-kuwa-thoughts"}, '[{"type": "thought", "thought": {"text": "Hm"}}]'),
    ],
)
def test_clients_that_ask_for_thoughts_get_them(fields: set[str], delta: str | None) -> None:
    """As a type of chunk that Kuwa's front end does not know."""
    encoder = wire.choose_encoder("auto", fields, chat_room=True)
    lines = [] if delta is None else [f"{NULL}{delta}}}\n".encode()]
    assert encoder.thoughts_apart is (delta is not None)
    assert encoder.encode_chunks([ThoughtChunk("Hm")]) == lines


def test_a_refusal_is_also_said_as_text() -> None:
    """The front end shows nothing for the chunk."""
    (line,) = FramedEncoder(chat_room=True).encode_chunks([RefusalChunk("I refuse")])
    assert isinstance(line, bytes)
    recorded = f'{NULL}[{{"type": "refusal", "refusal": {{"text": "I refuse"}}}}, '
    assert line.decode().startswith(recorded)
    assert room_04(line).text == "I refuse"


@pytest.mark.parametrize(("end", "line"), RECORDED_ENDINGS)
def test_the_last_line_repeats_the_exit_code_and_counts_tokens(end: AnswerEnd, line: str) -> None:
    """As recorded."""
    (step,) = FramedEncoder(chat_room=True).encode_end(end)
    assert step.data == f"data: {line}\n".encode()
    assert step.pause == 0


def test_a_failure_is_a_log_in_the_last_line() -> None:
    """As recorded, but for the time."""
    (step,) = FramedEncoder(chat_room=True).encode_end(AnswerEnd(1024, "Error occurred.", 0, 6))
    assert isinstance(step.data, bytes)
    line = json.loads(step.data[len("data: ") :])
    assert list(line) == ["finish_reason", "delta", "usage"]
    assert line["finish_reason"] == "exception"
    log, code = line["delta"]
    assert (log["log"]["text"], log["log"]["level"]) == ("Error occurred.", "ERROR")
    assert code == {"type": "exit_code", "exit_code": 1024}


def test_chunks_of_ones_own_are_encoded_by_themselves() -> None:
    """Also what they hold, if it says how."""

    class Inner:
        def __jsonencode__(self) -> list[int]:
            return [1]

    class Own(BaseChunk):
        def __init__(self, value: object) -> None:
            super().__init__()
            self.value = value

        def __jsonencode__(self) -> dict[str, object]:
            return {"type": "own", "own": self.value}

    one = FramedEncoder(chat_room=True)
    assert one.encode_chunks([Own(Inner())]) == [
        f'{NULL}[{{"type": "own", "own": [1]}}]}}\n'.encode()
    ]
    with pytest.raises(ValueError, match="JSON"):
        one.encode_chunks([Own(float("nan"))])
    with pytest.raises(TypeError, match="set"):
        one.encode_chunks([Own({1})])


# -- the text of 0.3


def test_the_raw_wire_shows_what_users_can_read() -> None:
    """Logs as 0.4's front end shows them; progress, exit codes and addresses are left out."""
    one = RawEncoder(chat_room=True)
    chunks = [TextChunk("a", [1]), LogChunk("b", LogLevel.ERROR), RefusalChunk("c")]
    assert one.encode_chunks(chunks) == ["a\n[ERROR] bc"]
    assert one.encode_chunks([ProgressChunk(1, 2), ExitCodeChunk(3)]) == []
    assert one.encode_chunks([ImageURLChunk("u"), AudioURLChunk("u")]) == []
    assert one.encode_text("中\ud800") == "中\ufffd".encode()
    assert [step.data for step in one.encode_end(AnswerEnd(1024, "Failed."))] == ["Failed."]


# -- side notes, as both front ends read them

Arrivals = list[tuple[float, bytes]]
TEXTS = ["", "Hi", "a\nb\n", "data: x\ndata: {}\n", "中文" * 40, "1 < 2", "<b>x</b>", "x <", "<<"]
NOTE = f"{BEGIN}note {{}} 附註{END}"


def sent(one: AnswerEncoder, pieces: Iterable[str], exit_code: int = 0) -> list[wire.TimedWrite]:
    """Return what is sent of these pieces of text, each at once, and behind them."""
    passed = [wire.TimedWrite(text) for text in map(one.gate.feed, pieces) if text]
    return passed + one.encode_end(AnswerEnd(exit_code))


def body(one: AnswerEncoder, steps: list[wire.TimedWrite]) -> bytes:
    """Return the bytes of all steps, pauses left out."""
    return b"".join(
        one.encode_text(step.data) if isinstance(step.data, str) else step.data for step in steps
    )


def cut(text: str, rng: random.Random) -> list[str]:
    """Cut a text anywhere."""
    cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(6)))
    return [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("notes", [0, 1, 2])
def test_a_room_of_0_4_gets_the_text_to_the_byte_and_one_note(text: str, notes: int) -> None:
    """Wherever the notes stand and the answer is cut."""
    rng = random.Random(text)
    for _ in range(50):
        at = [rng.randrange(len(text) + 1) for _ in range(notes)]
        answer = text
        for number, place in enumerate(sorted(at, reverse=True)):
            answer = answer[:place] + NOTE.format(number) + answer[place:]
        one = FramedEncoder(chat_room=True)
        shown = room_04(body(one, sent(one, cut(answer, rng), 7)))
        assert shown.text.removesuffix("\n") == text.removesuffix("\n")
        assert shown.text == text or text.endswith("<")
        assert len(shown.notes) == min(notes, 1)
        assert all(f"note {number} 附註" in shown.notes[0] for number in range(notes))
        assert shown.exit_code == 7


def test_a_tail_that_comes_whole_needs_no_newline() -> None:
    """It is sent with the character before it; one that comes alone gets the newline."""
    whole, alone = FramedEncoder(chat_room=True), FramedEncoder(chat_room=True)
    assert room_04(body(whole, sent(whole, ["a <"]))).text == "a <"
    assert room_04(body(alone, sent(alone, ["a ", "<"]))).text == "a <\n"
    api = FramedEncoder(chat_room=False)
    assert api_04(body(api, sent(api, ["a ", "<"]))).text == "a <"


@pytest.mark.parametrize("kind", [RawEncoder, FramedEncoder])
def test_others_than_rooms_get_a_note_below_the_text(kind: Callable[..., AnswerEncoder]) -> None:
    """They take it as text; there are no pauses."""
    one = kind(chat_room=False)
    steps = sent(one, [f"a{NOTE.format(1)}b"])
    found = body(one, steps)
    text = api_04(found).text if kind is FramedEncoder else found.decode()
    assert text == f"ab\n{NOTE.format(1)}"
    assert not any(step.pause for step in steps)


def arrivals(
    one: RawEncoder, steps: list[wire.TimedWrite], rng: random.Random, late: float
) -> Arrivals:
    """Return when the bytes of these steps arrive; each may be late on its way.

    The head of the response comes at 0: earlier than they do, or with the first of them.
    """
    now, last, found = 0.0, 0.0, []
    for step in steps:
        now += step.pause or rng.choice([0.0, 0.01, 0.09, 0.11, 0.3])
        last = max(last, now + rng.random() * late)
        data = one.encode_text(step.data) if isinstance(step.data, str) else step.data
        found.append((last, data))
    head = rng.choice([0.0, found[0][0]])
    return [(at - head, data) for at, data in found]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("slowness", [0.0, 0.07])
def test_a_room_of_0_3_recognises_the_note_and_keeps_the_text(text: str, slowness: float) -> None:
    """However pieces are cut; front end and network may each be late by 70 ms."""
    rng = random.Random(f"{text}{slowness}")
    for _ in range(100):
        one = RawEncoder(chat_room=True)
        place = rng.randrange(len(text) + 1)
        answer = text[:place] + NOTE.format(1) + text[place:]
        come = arrivals(one, sent(one, cut(answer, rng)), rng, slowness)
        shown = room_03(come, lag=lambda: rng.random() * slowness)
        assert shown == (text.strip(), ["note 1 附註"], None, 0), come


def test_a_room_of_0_3_keeps_a_tail_that_could_be_a_tag() -> None:
    """Its front end trims the newline."""
    for pieces in (["a <"], ["a ", "<"], ["<"], ["a<", "<", "<"]):
        one = RawEncoder(chat_room=True)
        times = [
            (float(n), one.encode_text(str(step.data))) for n, step in enumerate(sent(one, pieces))
        ]
        assert room_03(times, lag=lambda: 0.0).text == "".join(pieces)


def test_a_note_in_one_write_is_what_0_3_does_not_recognise() -> None:
    """That is why there are pauses; the text is whole nevertheless."""
    one = RawEncoder(chat_room=True)
    shown = room_03([(0.0, body(one, sent(one, ["Hi", NOTE])))], lag=lambda: 0.0)
    assert shown == ("Hi", [], None, 0)
