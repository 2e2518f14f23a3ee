"""A chat at the terminal, against /v1 of an executor."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kuwa_min.chat.chunks import Piece, ThoughtChunk
from kuwa_min.errors import AnswerError
from kuwa_min.kernel.embedded import EmbeddedKernel
from kuwa_min.kernel.protocol import ChatRequest
from kuwa_min.kernel.terminal.clients import KernelClient, OpenAIClient, user_language
from kuwa_min.kernel.terminal.screen import Screen
from kuwa_min.kernel.terminal.session import Session
from kuwa_min.serving import usage
from tests.kuwa_min.kernel.terminal.test_line_input import typed
from tests.kuwa_min.serving.api_client import Compute, api
from tests.kuwa_min.serving.test_routes import running
from tests.support.programs import ROOT, TIMEOUT, fetch, until


async def recite(chat: ChatRequest) -> AsyncGenerator[str, None]:
    """Say all that was sent."""
    said = [message["content"] for message in chat.history]
    yield "/".join([*said, f"system={chat.modelfile.override_system_prompt or ''}"])


def chat(compute: Compute, *lines: str) -> str:
    """Type these lines, then Ctrl-D; return what was shown."""
    out = io.StringIO()
    with api(compute) as one:
        Session(OpenAIClient(one.url), "m", Screen(out)).run(typed(*lines))
        until(lambda: one.metrics.busy_slots.value == 0)
    return out.getvalue()


def test_a_conversation_goes_on_until_ctrl_d() -> None:
    """Each question is sent with what was said before; empty lines are no questions."""
    shown = chat(echo_last_two, "one", "", "two\\", "lines").splitlines()
    assert shown == ["one", "one+one+two", "lines", ""]


async def echo_last_two(chat: ChatRequest) -> AsyncGenerator[str, None]:
    """Say the messages with + between them."""
    yield "+".join(message["content"] for message in chat.history)


def test_commands_do_what_help_says(tmp_path: Path) -> None:
    """Retry, a system prompt, a new conversation, a file, a message with a slash."""
    path = tmp_path / "chat.json"
    shown = chat(
        recite,
        "/retry",
        "one",
        "/system be brief",
        "/retry",
        "/system",
        "/new",
        "//two",
        f"/save {path}",
        f"/save {path}",
        "/save",
        "/nonsense",
        "/help",
    )
    assert "error: there is no question yet\none/system=\nthe system prompt is set\n" in shown
    assert "there is no system prompt now\na new conversation\n/two/system=\n" in shown
    assert "exists already" in shown
    assert "error: /save needs the name of a file" in shown
    assert "error: there is no /nonsense" in shown
    assert "/system TEXT" in shown
    messages = json.loads(path.read_bytes())["messages"]
    assert [one["content"] for one in messages] == ["/two", "/two/system="]


def test_ctrl_c_stops_the_answer_and_keeps_the_chat() -> None:
    """The row is free at once, what has come stays in the history; a real signal is sent."""
    stopped: list[bool] = []

    async def endless_at_first(chat: ChatRequest) -> AsyncGenerator[str, None]:
        yield "+".join(message["content"] for message in chat.history)
        if len(chat.history) == 1:
            threading.Thread(target=interrupt).start()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(True)

    def interrupt() -> None:
        until(lambda: "one" in out.getvalue())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    out = io.StringIO()
    with api(endless_at_first) as one:
        read = typed("one", "two")
        Session(OpenAIClient(one.url), "m", Screen(out)).run(read)
        until(lambda: stopped)
    assert out.getvalue().splitlines() == ["one", "(stopped)", "one+one+two", ""]


def test_ctrl_c_at_the_prompt_takes_the_line_back() -> None:
    """And says how to end."""
    steps = iter([KeyboardInterrupt, "one", EOFError])

    def read(_: str) -> str:
        step = next(steps)
        if isinstance(step, str):
            return step
        raise step

    out = io.StringIO()
    with api(echo_last_two) as one:
        Session(OpenAIClient(one.url), "m", Screen(out)).run(read)
    assert out.getvalue().split() == ["(Ctrl-D", "ends", "the", "chat)", "one"]


def test_a_server_that_fails_does_not_end_the_chat() -> None:
    """The question is not lost: /retry asks it when the model has been loaded."""
    out = io.StringIO()
    with api(recite) as one:
        session = Session(OpenAIClient(one.url), "m", Screen(out))
        one.is_ready = False
        session.take("one")
        one.is_ready = True
        session.take("/retry")
    first, *others = out.getvalue().splitlines()
    assert first.startswith("error: ")
    assert first.endswith("/retry asks again")
    assert others == ["one/system="]


def test_an_answer_that_is_not_whole_says_so() -> None:
    """Cut, or empty."""

    async def cut(_: ChatRequest) -> AsyncGenerator[str, None]:
        yield "half"
        usage.end("length")

    async def empty(_: ChatRequest) -> AsyncGenerator[str, None]:
        for nothing in ():
            yield nothing

    assert chat(cut, "x").splitlines() == ["half", "(the answer is incomplete)", ""]
    assert chat(empty, "x").splitlines() == ["(the answer is empty)", ""]


def test_chinese_users_read_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences of ours, and of the server."""
    monkeypatch.setenv("LC_ALL", "zh_TW.UTF-8")
    out = io.StringIO()
    with api(recite) as one:
        screen = Screen(out, user_language())
        session = Session(OpenAIClient(one.url), "m", screen)
        session.take("/retry")
        one.is_ready = False
        session.take("one")
    first, second = out.getvalue().splitlines()
    assert first == "錯誤：還沒有問過問題"
    assert re.fullmatch("錯誤：[^a-z]+；/retry 可再問一次", second)


def test_a_hostile_answer_does_not_control_the_terminal() -> None:
    """Nor does a sentence of a server in place of one."""

    async def evil(_: ChatRequest) -> AsyncGenerator[str, None]:
        yield "\x1b]52;c;ZXZpbA==\x07"

    assert "\x1b" not in chat(evil, "x", "/no\x1b[2J")


def test_a_failed_answer_is_shown_and_no_part_of_what_follows() -> None:
    """Nor is its question; /retry asks it again."""

    async def failing_at_first(chat: ChatRequest) -> AsyncGenerator[str, None]:
        yield "+".join(message["content"] for message in chat.history)
        if chat.history[-1]["content"] == "one":
            raise AnswerError("[No.]")

    out = io.StringIO()
    with EmbeddedKernel("127.0.0.1", 0) as kernel, running(failing_at_first) as executor:
        form = {"name": "bot", "endpoint": executor.chat}
        assert fetch(f"{kernel.url}v1.0/worker/register", form)[1] == "Success"
        client = KernelClient(kernel.url.rstrip("/"), "v1.0")
        Session(client, "bot", Screen(out)).run(typed("one", "two", "three"))
    failed = ["one", "note: [ERROR] [No.]", "(the answer failed; /retry asks again)"]
    assert out.getvalue().splitlines() == [*failed, "two", "two+two+three", ""]


@pytest.mark.slow
def test_thoughts_are_dimmed_at_a_terminal_and_can_be_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through a Kernel; /thoughts hides them from the next answer on."""

    async def thinking(chat: ChatRequest) -> AsyncGenerator[Piece, None]:
        yield ThoughtChunk("Hm.")
        yield f"<{chat.history[-1]['content']}>"

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with EmbeddedKernel("127.0.0.1", 0) as kernel, running(thinking) as executor:
        form = {"name": "bot", "endpoint": executor.chat}
        assert fetch(f"{kernel.url}v1.0/worker/register", form)[1] == "Success"
        with terminal("chat", "--kernel_url", kernel.url) as (process, press, shown):
            press(b"one\r")
            until(lambda: b"<one>" in shown)
            assert b"\x1b[2mHm.\x1b[0m\r\n<one>" in shown
            press(b"/thoughts\r")
            until(lambda: b"thoughts are hidden" in shown)
            press(b"two\r")
            until(lambda: b"<two>" in shown)
            assert shown.count(b"Hm.") == 1
            press(b"\x04")
            assert process.wait(TIMEOUT) == 0


@pytest.mark.slow
def test_a_real_terminal_and_a_real_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readline's editing, an answer, Ctrl-C within one, Ctrl-D: exit code 0.

    The locale is not installed, as in many containers.
    """
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")

    async def endless(chat: ChatRequest) -> AsyncGenerator[str, None]:
        yield f"<{chat.history[-1]['content']}>\x1b[2J"
        if chat.history[-1]["content"] == "stay":
            await asyncio.Event().wait()

    with api(endless) as one, terminal("chat", "--base_url", one.url) as (process, press, shown):
        press("你好lo\x1b[Dl\x1b[D\x1b[De\r".encode())  # the left arrow
        until(lambda: "<你好ello>\\x1b[2J".encode() in shown)
        press(b"stay\r")
        until(lambda: b"<stay>" in shown)
        process.send_signal(signal.SIGINT)
        until(lambda: b"(stopped)" in shown)
        until(lambda: one.metrics.busy_slots.value == 0)
        press(b"\x04")
        assert process.wait(TIMEOUT) == 0
    assert b"Traceback" not in shown


@contextmanager
def terminal(
    *words: str,
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[bytes], None], bytearray]]:
    """Run a command line of ours at a terminal; give it, its keyboard, and its screen.

    Keys are pressed at the next prompt: before it, the terminal itself would take a Ctrl-D.
    """
    keys, its = pty.openpty()
    shown = bytearray()
    command = [sys.executable, "-m", "kuwa_min", *words]
    process = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, cwd=ROOT, start_new_session=True
    )
    os.close(its)

    def watch() -> None:
        with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
            while data := os.read(keys, 1 << 16):
                shown.extend(data)

    def press(data: bytes) -> None:
        until(lambda: shown.endswith(b"> "))
        os.write(keys, data)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield process, press, shown
    finally:
        process.kill()
        process.wait(TIMEOUT)
        watcher.join(TIMEOUT)
        os.close(keys)


@pytest.mark.parametrize("message", ["\ud83d", "a\udcff"])
def test_bytes_that_are_no_text_do_not_end_the_chat(message: str) -> None:
    """As a terminal in another encoding sends them."""
    assert "?" in chat(echo_last_two, message)
