"""Live through what happens to executors and Kernels, with the built files."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.kuwa.kernel_hangs import hanging_kernel
from tests.fakes.kuwa.kernel_talks_garbage import odd_table
from tests.support.programs import (
    Program,
    call,
    chat_through,
    fetch,
    reserved_port,
    said,
    table,
    until,
)
from tests.support.pythons import python_of

pytestmark = pytest.mark.slow
Built = Callable[[str], Path]
pause = threading.Event()  # never set


def start(built: Built, *options: str, python: str = sys.executable, **environment: str) -> Program:
    """Start a built file."""
    return Program(*options, command=(python, str(built(options[0]))), **environment)


def kernel_on(built: Built, port: int) -> Program:
    """Start a Kernel of a built file on a port."""
    return Program("kernel", "--port", str(port), command=(sys.executable, str(built("debug"))))


@pytest.fixture
def port() -> Iterator[int]:
    """Reserve a port without a listener for a program of the test."""
    with reserved_port() as number:
        yield number


def test_one_file_alone_in_an_empty_read_only_home_is_enough_to_chat(
    built: Built, port: int, tmp_path: Path
) -> None:
    """Copy the file to an empty folder and start it there."""
    home, place = tmp_path / "home", tmp_path / "place"
    home.mkdir(mode=0o500)
    place.mkdir()
    lone = Path(shutil.copy(built("debug"), place / "renamed.pyz"))
    options = ("debug", "--embedded_kernel", f"127.0.0.1:{port}")
    with Program(*options, command=(sys.executable, str(lone)), HOME=str(home)) as program:
        program.wait_for("registered as debug")
        assert chat_through(program.kernel_url, "debug", "hello 你好") == "hello 你好"
        assert "<title>" in fetch(f"{program.kernel_url}/")[1]
        program.process.terminate()
        assert program.end() == 0
    assert list(home.iterdir()) == []
    assert [path.name for path in place.iterdir()] == ["renamed.pyz"]


def test_a_killed_executor_that_starts_again_on_its_port_chats_at_once(
    built: Built, port: int
) -> None:
    """Kill -9 in the middle of an answer, then start again."""
    with kernel_on(built, 0) as kernel:
        url = kernel.kernel_url
        options = ("debug", "--kernel_url", url, "--port", str(port))
        with start(built, *options, "--delay", "0.05") as first:
            first.wait_for("registered as debug")
            ids = {"name": "debug", "history_id": "1", "user_id": "7"}
            fetch(f"{url}/v1.0/worker/schedule", ids)
            form = {**ids, **said("x" * 1000)}
            with call(f"{url}/v1.0/chat/completions", form) as response:
                assert response.read(1) == b"x"
                first.process.kill()
                first.end()
        assert "debug" in table(url)
        fetch(f"{url}/v1.0/worker/schedule", ids)  # a reservation that is never used
        with start(built, *options, "--delay", "0") as second:
            second.wait_for("registered as debug")
            assert chat_through(url, "debug", "again") == "again"


def test_a_kernel_that_is_killed_and_comes_back_empty_has_the_executor_again(
    built: Built, port: int
) -> None:
    """Kill -9 the Kernel, start another on its port."""
    with kernel_on(built, port) as kernel:
        url = kernel.kernel_url
        options = ("--kernel_url", url, "--delay", "0", "--concurrent_req_limit", "2")
        with start(built, "debug", *options) as program:
            program.wait_for("registered as debug")
            kernel.process.kill()
            kernel.end()
            with kernel_on(built, port) as newborn:
                newborn.wait_for("the chat page is at")
                until(lambda: len(table(url).get("debug", [])) == 4)
                assert chat_through(url, "debug", "hello") == "hello"


def test_sigterm_in_the_middle_of_an_answer_lets_it_end_whole(built: Built) -> None:
    """Stop while a client reads."""
    with kernel_on(built, 0) as kernel:
        url = kernel.kernel_url
        with start(built, "debug", "--kernel_url", url) as program:
            program.wait_for("registered as debug")
            ids = {"name": "debug", "history_id": "1", "user_id": "7"}
            assert fetch(f"{url}/v1.0/worker/schedule", ids)[1] == "READY"
            with call(f"{url}/v1.0/chat/completions", {**ids, **said("x" * 100)}) as response:
                assert response.read(1) == b"x"
                program.process.terminate()
                assert response.read() == b"x" * 99
            assert program.end() == 0
        assert table(url) == {}


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_drain_at_once(built: Built, second: signal.Signals) -> None:
    """With a Kernel that hangs and an answer that would take minutes: it ends whole, and code 0.

    Until then no chat begins.
    """
    options = ("--drain_timeout", "600", "--host", "127.0.0.1", "--delay", "0.1")
    with hanging_kernel() as url, start(built, "debug", "--kernel_url", url, *options) as program:
        with call(program.url, said("x" * 5000)) as response:
            assert response.read(1) == b"x"
            program.process.terminate()
            program.wait_for("stopping: running answers may take 600 s")
            assert fetch(f"{program.url}/1", said("y"))[0] == 503
            pause.wait(0.5)  # two signals at once may be one that a wrapper passes on
            program.process.send_signal(second)
            assert response.read().decode().endswith("<<</WARNING>>>")
        assert program.end() == 0
        assert "asked to stop again" in program.log


def test_a_kernel_that_talks_garbage_loses_no_executor(built: Built) -> None:
    """Where the table is garbage, the endpoints are registered all the same, again and again."""
    options = ("--host", "127.0.0.1", "--concurrent_req_limit", "2", "--waiting", "0")
    with (
        odd_table(b"\x00\xff no HTTP\r\n\r\n") as (url, registered),
        start(built, "debug", "--kernel_url", url, *options) as program,
    ):
        program.wait_for("registered as debug")
        until(lambda: len(registered) >= 4)  # two at the start, and after each heartbeat
        metrics = fetch(f"{program.url.removesuffix('/chat')}/metrics")[1]
        program.process.terminate()
        assert program.end() == 0
    assert 'executor_framework_registered{executor_name="debug"} 1.0' in metrics
    assert 'executor_framework_thread_failures_total{executor_name="debug"} 0.0' in metrics
    assert "Traceback" not in program.log


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("megabytes", [40, 100, 400])
def test_with_little_memory_it_serves_or_ends(built: Built, megabytes: int) -> None:
    """Three hundred clients want a thread each; none waits for ever, and after them all is well."""
    limits = ("sh", "-c", f'ulimit -v {megabytes * 1024} && exec "$@"', "sh")
    options = ("debug", "--ignore_kernel", "--host", "127.0.0.1", "--delay", "0")
    command = (*limits, sys.executable, str(built("debug")))
    with Program(*options, command=command) as program, contextlib.ExitStack() as clients:
        until(lambda: "ready: " in program.log or program.process.poll() is not None)
        if program.process.poll() is not None:
            assert program.end() == 1
            assert "error: " in program.log.splitlines()[-1]
            assert "Traceback" not in program.log
            return
        base = program.url.removesuffix("/chat")
        host, port = base.removeprefix("http://").split(":")
        for _ in range(300):
            client = clients.enter_context(socket.create_connection((host, int(port)), 20))
            client.sendall(b"POST /chat HTTP/1.1\r\nHo")
            with contextlib.suppress(ConnectionError):  # it was refused already, and closed
                assert fetch(f"{base}/status")[0] in (200, 503)
        clients.close()
        until(lambda: fetch(program.url, said("hello")) == (200, "hello"))
        program.process.terminate()
        assert program.end() == 0
        assert "Traceback" not in program.log


def test_eight_clients_chat_at_once_through_one_process(built: Built) -> None:
    """Give each of eight clients one of eight slots."""
    options = ("--embedded_kernel", "127.0.0.1:0", "--concurrent_req_limit", "8")
    with start(built, "debug", *options, "--delay", "0.005") as program:
        program.wait_for("registered as debug")
        url, answers = program.kernel_url, dict[int, str]()

        def client(number: int) -> None:
            answers[number] = chat_through(url, "debug", f"{number} " * 50, number + 1)

        clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
    assert answers == {number: f"{number} " * 50 for number in range(8)}


@pytest.mark.parametrize("minor", [10, 11, 12, 13, 14])
def test_every_python_that_is_here_runs_the_file(built: Built, minor: int) -> None:
    """Chat, abort and stop on each minor version."""
    python = python_of(f"3.{minor}")
    options = ("--ignore_kernel", "--host", "127.0.0.1", "--concurrent_req_limit", "2")
    with start(built, "debug", *options, python=python) as program:
        assert fetch(program.url, said("hi")) == (200, "hi")
        with call(f"{program.url}/1", said("x" * 1000)) as response:
            assert response.read(1) == b"x"
            assert fetch(f"{program.url}/1/abort")[1] == '{"msg":"Aborted"}'
            assert len(response.read()) < 900
        program.process.terminate()
        assert program.end() == 0
    assert "Traceback" not in program.log


def test_list_imports_nothing_outside_the_standard_library(built: Built) -> None:
    """Look at what --list imports, module by module."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", str(built("debug")), "--list"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    headings = {"imported package", "org"}  # copy.py asks for Jython's org.python.core
    ours = {"kuwa_min", "backends", "kuwa_launch"}
    assert ours - {"backends"} <= imported  # import_module is not timed
    assert imported - ours - headings <= set(sys.stdlib_module_names)


def test_the_file_names_itself_in_its_list_and_version(built: Built) -> None:
    """Run --list and --version."""
    path = str(built("dummy"))
    listed = subprocess.run(
        [sys.executable, path, "--list"], capture_output=True, text=True, check=True
    ).stdout
    assert 'Use "kuwa-dummy.pyz [executor] --help" to get more information.' in listed
    version = subprocess.run(
        [sys.executable, path, "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert version.startswith("kuwa-min 0.")
    assert "sha256:" in version
