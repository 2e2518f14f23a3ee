"""Health checks of a built file whose process cannot answer: its lock is held, or it is stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from kuwa_min.httpd import acceptor
from tests.support.programs import Program, fetch, said, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not acceptor.is_possible(), reason="health is answered in the process"),
]
Built = Callable[[str], Path]
# A chat holds the interpreter's lock, as a C extension may, until a pipe has a byte to read.
HOLDER = """
import ctypes, os, sys
from kuwa_min import LLMExecutor
from kuwa_min.httpd import server

server.STALE_SECONDS = float(os.environ.get("STALE", server.STALE_SECONDS))


class Holder(LLMExecutor):
    uses_asyncio = False

    async def llm_compute(self, history, modelfile):
        pipe = os.environ.get("PIPE")
        if pipe:
            number = os.open(pipe, os.O_RDWR)
            os.write(2, b"holding\\n")
            ctypes.PyDLL(None).read(number, ctypes.create_string_buffer(1), 1)
            os.close(number)
        yield "done"
"""


@pytest.fixture
def start(built: Built, tmp_path: Path) -> Callable[..., Program]:
    """Return a function that starts the executor from a built file; environment: of it."""
    source = tmp_path / "holder.py"
    source.write_text(HOLDER)
    file = str(built("debug"))
    options = (str(source), "--ignore_kernel", "--host", "127.0.0.1", "--log", "debug")

    def start(**environment: str) -> Program:
        return Program(*options, command=(sys.executable, file), **environment)

    return start


def child_of(program: Program, former: int = 0) -> int:
    """Wait for the process that accepts connections, but for a former one; return its id."""

    def find() -> int | None:
        ids = re.findall(r"process (\d+) accepts connections", program.log)
        return int(ids[-1]) if ids and ids[-1] != str(former) else None

    found: int = until(find)
    return found


def is_alive(process: int) -> bool:
    """Tell whether a process runs, and is what ps shows under our name."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return acceptor.NAME.encode() in words


def health(program: Program) -> int:
    """Return the status of /health."""
    return fetch(program.url.replace("/chat", "/health"))[0]


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def assert_all_gone(program: Program, child: int, port: int) -> None:
    """Wait until the port can be listened on and the process that accepted is gone."""
    until(lambda: is_free(port))
    until(lambda: not is_alive(child))


def test_health_is_answered_while_a_chat_holds_the_interpreters_lock(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """Then the chat is answered; at the end, nothing is left."""
    os.mkfifo(pipe := tmp_path / "pipe")
    answers: list[Any] = []
    with start(PIPE=str(pipe)) as program:
        url, child = program.url, child_of(program)
        chat = threading.Thread(target=lambda: answers.append(fetch(url, said("hold"))))
        chat.start()
        program.wait_for("holding")
        for _ in range(3):
            assert health(program) == 204
        assert not answers
        with open(pipe, "wb") as held:  # noqa: PTH123 - not a regular file
            held.write(b"x")
        chat.join()
        assert answers == [(200, "done")]
        os.kill(child, signal.SIGTERM)  # as to a whole process group: it goes on
        assert health(program) == 204
        assert is_alive(child)
        program.process.terminate()
        assert program.end() == 0
        assert_all_gone(program, child, urlsplit(url).port or 0)


def test_a_stopped_process_is_healthy_for_a_while_only(start: Callable[..., Program]) -> None:
    """Until its heartbeat is stale; once it goes on, it is healthy again, and says so."""
    with start(STALE="2") as program:
        child_of(program)
        assert health(program) == 204
        program.process.send_signal(signal.SIGSTOP)
        until(lambda: health(program) == 503)
        program.process.send_signal(signal.SIGCONT)
        until(lambda: health(program) == 204)
        program.wait_for("nothing moved here for")


def test_a_process_that_accepts_and_dies_is_replaced(start: Callable[..., Program]) -> None:
    """Until then, and afterwards, checks and chats are answered."""
    with start() as program:
        first = child_of(program)
        os.kill(first, signal.SIGKILL)
        program.wait_for("the process that accepts connections ended")
        assert health(program) == 204
        assert fetch(program.url, said("hi")) == (200, "done")
        second = child_of(program, former=first)
        assert health(program) == 204
        assert fetch(program.url, said("hi")) == (200, "done")
        program.process.kill()
        program.end()
        assert_all_gone(program, second, urlsplit(program.url).port or 0)
