"""One question: what is asked, what is written where, and the exit codes."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from kuwa_min import cli
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.kernel.protocol import ChatRequest
from kuwa_min.kernel.terminal import ask
from kuwa_min.serving import usage
from tests.kuwa_min.serving.api_client import Compute, api

EVIL = "\x1b]0;evil\x07"


class Piped(io.TextIOWrapper):
    """Standard input: a pipe with these bytes."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


async def echo(chat: ChatRequest) -> AsyncGenerator[str, None]:
    """Repeat the last message, with a side note."""
    yield chat.history[-1]["content"]
    yield SIDE_NOTE.format("a note")
    usage.count(5, 2, 3)


async def evil(_: ChatRequest) -> AsyncGenerator[str, None]:
    """Try to control a terminal."""
    yield EVIL


def asked(
    monkeypatch: pytest.MonkeyPatch, compute: Compute, *words: str, piped: bytes = b""
) -> int:
    """Run `ask` as the command line does; return the exit code."""
    monkeypatch.setattr(sys, "stdin", Piped(piped))
    with api(compute) as one:
        return cli.main(["ask", "--base_url", one.url, *words])


def test_the_answer_is_written_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Side notes go elsewhere; what is piped comes behind the question."""
    assert asked(monkeypatch, echo, "Sum", "up:", piped="報告\r\n".encode()) == 0
    written = capsys.readouterr()
    assert written.out == "Sum up:\n\n報告\n"
    assert written.err == "note: a note\n"


def test_json_holds_all_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line."""
    assert asked(monkeypatch, echo, "--json", "--access_code", "a/b c", piped=b"hi") == 0
    (line,) = capsys.readouterr().out.splitlines()
    expected: dict[str, Any] = {
        "access_code": "a/b c",
        "answer": "hi",
        "thoughts": "",
        "side_notes": ["a note"],
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    }
    assert json.loads(line) == expected


def test_a_pipe_gets_the_answer_as_it_is_and_a_terminal_a_harmless_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As other commands do."""
    assert asked(monkeypatch, evil, "x") == 0
    assert capsys.readouterr().out == f"{EVIL}\n"
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert asked(monkeypatch, evil, "x") == 0
    assert "\x1b" not in sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert "evil" in sys.stdout.getvalue()  # type: ignore[attr-defined]


def test_an_encoding_that_lacks_a_character_loses_that_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a terminal of another code page."""

    async def mixed(_: ChatRequest) -> AsyncGenerator[str, None]:
        yield "a你b"

    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert asked(monkeypatch, mixed, "x") == 0
    assert written.getvalue() == b"a?b\n"


async def failing(_: ChatRequest) -> AsyncGenerator[str, None]:
    """Fail with a sentence."""
    yield "begun"
    raise AnswerError("It cannot go on.")


async def cut(_: ChatRequest) -> AsyncGenerator[str, None]:
    """Answer up to the limit."""
    yield "half"
    usage.end("length")


async def empty(_: ChatRequest) -> AsyncGenerator[str, None]:
    """Say nothing."""
    for nothing in ():
        yield nothing


@pytest.mark.parametrize(
    ("compute", "words", "code", "message"),
    [
        (failing, ["x"], 1, "It cannot go on"),
        (empty, ["x"], 1, "the answer is empty"),
        (echo, ["x", "--access_code", "nowhere"], 1, "nowhere"),
        (echo, [], 2, "there is no question"),
        (cut, ["x"], 4, "cut by its limit"),
    ],
)
def test_exit_codes_tell_what_came(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    compute: Compute,
    words: list[str],
    code: int,
    message: str,
) -> None:
    """With one line on standard error."""
    assert asked(monkeypatch, compute, *words) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_wrong_option_is_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere."""
    with pytest.raises(SystemExit) as end:
        asked(monkeypatch, echo, "--nonsense")
    assert end.value.code == 2


def test_what_is_piped_must_be_text_of_some_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a picture nor without end."""
    with pytest.raises(UsageError, match="standard input is not"):
        ask.full_question("x", io.BytesIO(b"\x89PNG\xff"))
    monkeypatch.setattr(ask, "LONGEST_INPUT", 3)
    with pytest.raises(UsageError, match="longer"):
        ask.full_question("x", io.BytesIO(b"four"))
