"""Check the fakes of Kuwa's Kernels and front ends against what the real ones were seen to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fakes.kuwa.executor_answers import CHUNKED, Executor
from tests.fakes.kuwa.kernel_03 import Kernel, kernel_03
from tests.fakes.kuwa.kernel_04 import kernel_04
from tests.fakes.kuwa.multi_chat import BROKEN, EMPTY_ANSWER, THINKING, Room, replay, sent_modelfile
from tests.fakes.kuwa.multi_chat_03 import FrontEnd03, Reader03
from tests.fakes.kuwa.multi_chat_04 import FrontEnd04, Reader04
from tests.support.programs import call, fetch, post_json

NOTE = "<<<WARNING>>>note<<</WARNING>>>"
NOTES = "<<<WARNING>>>n1\nn2<<</WARNING>>>"
ENDING = '{"type": "exit_code", "exit_code": 0}'


def line(*chunks: dict[str, Any]) -> bytes:
    """Return a framed line."""
    return b"data: " + json.dumps({"finish_reason": None, "delta": chunks}).encode() + b"\n"


def text(value: Any) -> bytes:
    """Return a framed line with a text."""
    return line({"type": "text", "text": {"value": value, "annotations": []}})


def log(value: str, level: str = "INFO") -> bytes:
    """Return a framed line with a log."""
    return line({"type": "log", "log": {"text": value, "level": level}})


LAST = f'data: {{"finish_reason": "stop", "delta": [{ENDING}], "usage": {{}}}}\n'.encode()


def frame(source: str) -> bytes:
    """Return a framed line of this JSON."""
    return f"data: {source}\n".encode()


# What RequestChat of 0.4 published in a room, saved, and took for the exit code.
ROOM_04: dict[str, tuple[list[bytes], list[str], str, Any]] = {
    "framed": ([text("a"), text("b"), LAST], ["a...", "ab..."], "ab", 0),
    "no exit code": ([text("a"), text("b")], ["a...", "ab..."], "ab", None),
    "nothing": ([], [], EMPTY_ANSWER, None),
    "white space": (
        [text(" "), text("\n"), LAST],
        [" ...", " \n..."],
        f" \n{EMPTY_ANSWER}",
        0,
    ),
    "only a picture": ([line({"type": "image_url", "image_url": "x"}), LAST], [], EMPTY_ANSWER, 0),
    "a refusal": ([line({"type": "refusal", "refusal": {"text": "x"}})], [], EMPTY_ANSWER, None),
    "text that is null": ([text(None), text("y"), LAST], ["y..."], "y", 0),
    "unknown chunks": ([line({"type": "new"}), text("y"), LAST], ["y..."], "y", 0),
    "a log in a line": (
        [
            line(
                {"type": "log", "log": {"text": "", "level": "INFO"}},
                {"type": "log", "log": {}},
                {"type": "text", "text": {"value": "t"}},
            ),
            text("y"),
            LAST,
        ],
        ["\n[INFO] \n[] t...", "\n[INFO] \n[] ty..."],
        "\n[INFO] \n[] ty",
        0,
    ),
    "only a log": ([log("x"), LAST], ["\n[INFO] x..."], "\n[INFO] x", 0),
    "a text exit code": (
        [text("a"), line({"type": "exit_code", "exit_code": "7"})],
        ["a..."],
        "a",
        "7",
    ),
    "an exit code without a code": (
        [text("a"), line({"type": "exit_code"}), text("b")],
        ["a...", BROKEN],
        BROKEN,
        None,
    ),
    "a delta that is a text": ([frame('{"delta": "abc"}'), text("y")], [BROKEN], BROKEN, None),
    "a delta that is a number": ([frame('{"delta": 5}'), text("y")], [BROKEN], BROKEN, None),
    "a delta of texts": ([frame('{"delta": ["abc"]}'), text("y"), LAST], ["y..."], "y", 0),
    "bad JSON": ([frame('{"delta": ['), text("y"), LAST], ["y..."], "y", 0),
    "JSON too deep": ([frame("[" * 600 + "]" * 600), text("y"), LAST], ["y..."], "y", 0),
    "half a character": (
        [frame('{"delta": [{"type": "text", "text": {"value": "\\ud800"}}]}'), text("y"), LAST],
        ["y..."],
        "y",
        0,
    ),
    "bare UTF-8": (
        [frame('{"delta":[{"type":"text","text":{"value":"中😀"}}]}'), LAST],
        ["中😀..."],
        "中😀",
        0,
    ),
    "carriage returns": ([text("a").replace(b"\n", b"\r\n"), LAST], ["a..."], "a", 0),
    "DONE": ([text("y"), b"data: [DONE]\n\n"], ["y...", "y\n..."], "y\n", None),
    "events with blank lines": (
        [text("a"), b"\n", text("b"), b"\n"],
        ["a...", "a\n...", "a\nb...", "a\nb\n..."],
        "a\nb\n",
        None,
    ),
    "no space after data": (
        [b"data:{}\n", text("y"), LAST],
        ["data:{}\n...", "data:{}\ny..."],
        "data:{}\ny",
        0,
    ),
    "raw text": (
        ["第一段".encode(), "還是\n".encode(), b"second ", b"line"],
        ["第一段還是\n...", "第一段還是\nsecond line..."],
        "第一段還是\nsecond line",
        None,
    ),
    "raw text with data": (
        ["一\n".encode(), b"data: lost\n", "二\n".encode()],
        ["一\n...", "一\n二\n..."],
        "一\n二\n",
        None,
    ),
    "raw amid framed": (
        [text("a"), b"raw\n", text("b"), LAST],
        ["a...", "araw\n...", "araw\nb..."],
        "araw\nb",
        0,
    ),
    "a line in two blocks": ([text("ab")[:30], text("ab")[30:], LAST], ["ab..."], "ab", 0),
    "less-than signs": (
        [text("a "), text("<"), text("b>"), text(" < 3"), text("<<"), text(" x"), LAST],
        ["a ...", "a ...", "a <b>...", "a <b> < 3...", "a <b> < 3...", "a <b> < 3<< x..."],
        "a <b> < 3<< x",
        0,
    ),
    "a last less-than sign": ([text("a "), text("<")], ["a ...", "a ..."], "a ", None),
    "one joined to its text": ([text("a <"), LAST], ["a <..."], "a <", 0),
    "a note of its own": (
        [text(NOTE), text("m"), LAST],
        [f"...{NOTE}", f"m...{NOTE}"],
        f"m{NOTE}",
        0,
    ),
    "two notes": (
        [text("<<<WARNING>>>n1<<</WARNING>>>"), text("<<<WARNING>>>n2<<</WARNING>>>"), text("m")],
        ["...<<<WARNING>>>n1<<</WARNING>>>", f"...{NOTES}", f"m...{NOTES}"],
        f"m{NOTES}",
        None,
    ),
    "two notes in a line": (
        [text("<<<WARNING>>>n1<<</WARNING>>><<<WARNING>>>n2<<</WARNING>>>"), text("m"), LAST],
        ["...<<<WARNING>>>n1n2<<</WARNING>>>", "m...<<<WARNING>>>n1n2<<</WARNING>>>"],
        "m<<<WARNING>>>n1n2<<</WARNING>>>",
        0,
    ),
    "only a note": ([text(NOTE), LAST], [f"...{NOTE}"], NOTE, 0),
    "a note in pieces": (
        [text(NOTE[:7]), text(NOTE[7:15]), text(NOTE[15:]), text("m"), LAST],
        ["...", "...", f"...{NOTE}", f"m...{NOTE}"],
        f"m{NOTE}",
        0,
    ),
    "a note by the character": (
        [*map(text, "Hi" + NOTE), LAST],
        ["H...", "Hi..."] + ["Hi..."] * (len(NOTE) - 1) + [f"Hi...{NOTE}"],
        f"Hi{NOTE}",
        0,
    ),
    "a note amid text": ([text(f"a {NOTE} b"), LAST], [f"a {NOTE} b..."], f"a {NOTE} b", 0),
    "text behind a note": (
        [text("Hi "), text(f"{NOTE}\n"), text("lost"), LAST],
        ["Hi ...", "Hi ...", "Hi ..."],
        "Hi ",
        0,
    ),
    "text behind the first note": ([text(f"{NOTE} x"), text("y"), LAST], ["..."] * 2, THINKING, 0),
    "a note without an end": (
        [text("Hi "), text("<<<WARNING>>>n"), text("lost"), LAST],
        ["Hi ..."] * 3,
        "Hi ",
        0,
    ),
}


@pytest.mark.parametrize("case", ROOM_04)
def test_a_room_of_0_4_sees_what_the_real_one_was_seen_to_publish(case: str) -> None:
    """Replay each kind of line."""
    blocks, updates, saved, exit_code = ROOM_04[case]
    seen = replay(Reader04(), *[(0.01 * n, data) for n, data in enumerate(blocks)])
    assert seen.texts == updates
    assert (seen.saved, seen.exit_code, seen.ended) == (saved, exit_code, True)


@pytest.mark.parametrize(
    ("blocks", "updates", "exit_code"),
    [
        ([], [], None),
        ([text("a"), text("b")], ["a", "b"], None),
        ([text(" "), text("\n"), LAST], [" ", "\n"], 0),
        ([text(NOTE[:7]), text(NOTE[7:]), text("m"), LAST], [NOTE[:7], NOTE[7:], "m"], 0),
        (["一\n".encode(), b"two ", b"end"], ["一\n", "two end"], None),
    ],
)
def test_an_api_caller_of_0_4_gets_each_line_by_itself(
    blocks: list[bytes], updates: list[str], exit_code: int | None
) -> None:
    """Notes and white space reach it as they are; an empty answer stays empty."""
    seen = replay(Reader04(room=False), *[(0.01 * n, data) for n, data in enumerate(blocks)])
    assert (seen.texts, seen.exit_code, seen.saved) == (updates, exit_code, THINKING)


def test_a_silence_of_five_minutes_breaks_the_answer_of_both() -> None:
    """A ping keeps 0.4 waiting."""
    beat = line({"type": "progress", "progress": {"position": 1, "total": 2}})
    for reader, words in ((Reader03(), b"a"), (Reader04(), text("a"))):
        assert replay(reader, (0, words), (301, words)).saved == BROKEN
    assert replay(Reader04(), (0, text("a")), (200, beat), (400, LAST)).saved == "a"


def test_a_room_of_0_3_reads_in_windows_that_end_with_the_next_byte() -> None:
    """That byte may be the first of a character, or be missing."""
    blocks = [(0.05, "第一"), (0.36, "還是\n"), (0.67, "second "), (0.98, ""), (0.98, "end")]
    seen = replay(Reader03(started=0.03), *[(at, words.encode()) for at, words in blocks])
    assert seen.updates == [
        (0.36, "第一..."),
        (0.67, "第一還是\ns..."),
        (0.98, "第一還是\nsecond ..."),
        (0.98, "第一還是\nsecond end..."),
    ]
    assert (seen.saved, seen.exit_code) == ("第一還是\nsecond end", None)


def test_a_room_of_0_3_takes_framed_lines_for_text() -> None:
    """It knows nothing of them, and cuts notes out of their JSON."""
    assert (
        replay(Reader03(), (0, text("a")), (0, LAST)).saved == (text("a") + LAST).decode().strip()
    )
    assert NOTE not in replay(Reader03(), (0, text(NOTE)), (0, LAST)).saved


def test_a_room_of_0_3_keeps_a_note_only_if_its_last_sign_fills_a_window() -> None:
    """One behind the text in the same window is shown at first, and not saved."""
    seen = replay(Reader03(), (0, b"text"), (0, NOTE.encode()))
    assert (seen.texts, seen.saved, seen.notes) == ([f"text{NOTE}..."], "text", [])
    seen = replay(Reader03(), (0, b"text"), (0.2, b""), (0.3, NOTE.encode()))
    assert (seen.texts, seen.saved, seen.notes) == (["text..."], "text", [])
    slowly = [(0.2 * n, bytes([one])) for n, one in enumerate(f"text{NOTE}".encode())]
    seen = replay(Reader03(), *slowly)
    assert (seen.saved, seen.notes) == (f"text{NOTE}", ["note"])


def test_an_api_caller_of_0_3_gets_the_windows_and_waits_for_ever_for_an_empty_answer() -> None:
    """Only an answer with text releases it."""
    seen = replay(Reader03(room=False), (0, b"a"), (0.2, b"bc"))
    assert (seen.texts, seen.ended) == (["ab", "c"], True)
    assert not replay(Reader03(room=False)).ended


def test_a_modelfile_loses_comments_and_outer_quotes() -> None:
    """0.4 drops four more commands."""
    commands = [
        {"name": "# x", "args": ""},
        {"name": "welcome", "args": "hi"},
        {"name": "system", "args": '"""a "b" /"""'},
    ]
    dropped = FrontEnd04.dropped_commands
    assert sent_modelfile(commands, *dropped) == '[{"name":"system","args":"a \\"b\\" \\/"}]'
    assert '"welcome"' in sent_modelfile(commands)


@contextmanager
def executor(kernel: Kernel) -> Iterator[Executor]:
    """Run an executor and register it as bot."""
    with Executor() as one:
        form = {"name": "bot", "endpoint": f"{one.url}/chat"}
        assert fetch(f"{kernel.url}/v1.0/worker/register", form)[1] == "Success"
        yield one


@pytest.fixture(params=[kernel_03, kernel_04])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Run a Kernel of each version."""
    with request.param() as one:
        yield one


def test_a_chat_reaches_the_executor_as_both_front_ends_send_it(kernel: Kernel) -> None:
    """The form in the recorded order, the client's headers with its Host, three more from 0.4."""
    with executor(kernel) as one:
        for front_end in (FrontEnd03, FrontEnd04):
            client = front_end(kernel.url, "bot", host="kernel:9000")
            assert client.chat([{"msg": "中 /", "isbot": 0}], modelfile=[]).saved == "hi"
        (old_line, old), (new_line, new) = one.requests
        old_body, new_body = one.bodies
    tail = b"&name=bot&user_id=3&history_id=7&google_token=g"
    history = b"input=%5B%7B%22msg%22%3A%22%5Cu4e2d+%5C%2F%22%2C%22isbot%22%3A0%7D%5D"
    assert old_body == history + tail + b"&user_token=5%7Ctok&modelfile=%5B%5D"
    assert new_body == history + tail + b"&nim_token=n&user_token=5%7Ctok&modelfile=%5B%5D"
    kuwa = (
        "X-Kuwa-User-Id: 3\nX-Kuwa-Api-Token: 5|tok\nX-Kuwa-Api-Base-Urls: http://localhost/v1.0/"
    )
    assert kuwa in new
    assert "X-Kuwa" not in old
    assert old_line == new_line == "POST /chat"
    for head in (old, new):
        assert head.startswith("Accept-Encoding: identity\n")
        assert "Host: kernel:9000\nUser-Agent: GuzzleHttp/7\n" in head
        assert "Accept-Language: zh_tw\n" in head


@pytest.mark.parametrize(
    ("fields", "body", "expected"),
    [
        (CHUNKED, b"5\r\n\xe4\xb8\xad\xe6\x96\r\n1\r\n\x87\r\n0\r\n\r\n", ["中", "文"]),
        (CHUNKED, b"1\r\na\r\n1\r\nb\r\n", ["a", "b"]),
        (CHUNKED, b"1\r\na\r\n5\r\nb", ["a"]),
        (CHUNKED, b"1\r\n\xff\r\n0\r\n\r\n", ["\ufffd"]),
        (
            b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n",
            b"3\r\n\xe4\xb8\xad\r\n0\r\n\r\n",
            ["ä¸\xad"],
        ),
        (b"Content-Type: application/json\r\n", b'{"msg":"\xe4\xb8\xad"}', ['{"msg":"中"}']),
    ],
)
def test_an_answer_keeps_its_chunks_and_loses_its_charset(
    kernel: Kernel, fields: bytes, body: bytes, expected: list[str]
) -> None:
    """Characters wait for their end; a cut body ends as if whole; the status is lost."""
    form = {"name": "bot", "history_id": "7", "user_id": "3"}
    with executor(kernel) as one:
        one.fields, one.body, one.status = fields, body, b"429 Too Many"
        fetch(f"{kernel.url}/v1.0/worker/schedule", form)
        with call(f"{kernel.url}/v1.0/chat/completions", form) as response:
            assert (response.status, response.getheader("Content-Type")) == (200, "text/plain")
            sizes = []
            while line_ := response.fp.readline().strip():
                size = int(line_, 16)
                sizes.append(response.fp.read(size + 2)[:-2].decode())
                if not size:
                    break
    assert sizes == [*expected, ""]
    assert kernel.records == {"bot": [[f"{one.url}/chat", "READY", -1, -1]]}


def test_a_record_is_reserved_with_ids_as_text_and_dropped_without_an_answer(
    kernel: Kernel,
) -> None:
    """BUSY while reserved; NOMACHINE when it is gone."""
    client = FrontEnd04(kernel.url, "bot")
    with executor(kernel) as one:
        assert client.schedule(7) == "READY"
        assert kernel.records["bot"] == [[f"{one.url}/chat", "READY", "7", "3"]]
        assert client.chat([], 8).busy
    form = {"name": "bot", "history_id": "7", "user_id": "3"}
    assert fetch(f"{kernel.url}/v1.0/chat/completions", form) == (200, "")
    assert fetch(f"{kernel.url}/v1.0/worker/list")[1].strip() == "[]"
    assert client.schedule(7) == "NOMACHINE"


def test_shutdown_finds_only_a_free_record_with_ids_as_numbers() -> None:
    """The record stays; the executor is asked at /shutdown."""
    with kernel_04() as kernel, executor(kernel) as one:
        record = {"access_code": "bot", "endpoint": f"{one.url}/chat", "status": "READY"}
        url = f"{kernel.url}/v1.0/worker/shutdown"

        def shutdown(**ids: Any) -> tuple[int, Any]:
            return post_json(url, {**record, **ids})

        assert shutdown() == (500, {"message": "'history_id'", "status": "error"})
        assert shutdown(history_id=-1, user_id=-1)[1]["status"] == "success"
        assert one.requests[-1][0] == "GET /shutdown"
        FrontEnd04(kernel.url, "bot").schedule(7)
        for ids in ({"history_id": "7", "user_id": "3"}, {"history_id": -1, "user_id": -1}):
            assert shutdown(**ids)[1] == {"message": "No records founded", "status": "error"}
        one.status = b"404 Not Found"
        kernel.records["bot"][0][2:] = [-1, -1]
        failed = {"message": "Failed to trigger shutdown: 404", "status": "error"}
        assert shutdown(history_id="-1", user_id=-1) == (500, failed)


def test_the_table_of_0_4_is_json_and_a_free_record_moves() -> None:
    """Read, debug with the right Accept, update."""
    with kernel_04() as kernel, executor(kernel) as one:
        worker = f"{kernel.url}/v1.0/worker"
        record = {"access_code": "bot", "endpoint": f"{one.url}/chat", "status": "READY"}
        record |= {"history_id": "-1", "user_id": "-1"}
        move = {**{f"original_{key}": value for key, value in record.items()}, **record}
        assert post_json(f"{worker}/update", {**move, "access_code": "new"})[0] == 200
        row = [f"{one.url}/chat", "READY", -1, -1]
        assert json.loads(fetch(f"{worker}/read")[1]) == {"bot": [], "new": [row]}
        shown = fetch(f"{worker}/debug", fields={"Accept": "application/json"})[1]
        keys = ("endpoint", "status", "job_history_id", "job_user_id")
        assert json.loads(shown) == {"bot": [], "new": [dict(zip(keys, row, strict=True))]}
        assert "<textarea" in fetch(f"{worker}/debug")[1]


def test_a_room_gives_the_history_back_as_its_database_does(kernel: Kernel) -> None:
    """0 and 1 in the second turn."""
    with executor(kernel) as one:
        room = Room(FrontEnd04(kernel.url, "bot"))
        assert [room.say("a").saved, room.say("b").saved] == ["hi", "hi"]
        assert b"isbot%22%3A1" in one.bodies[1]
