"""Stopping a chat of the chatgpt backend: the service sees it at once, wherever it stands."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backends._cloud import errors
from backends._http import connection
from backends.chatgpt import ChatgptExecutor, client
from kuwa_min.serving.generations.generator_runner import GeneratorRunner
from tests.fakes.openai import is_silent as openai_is_silent
from tests.fakes.openai import refuses as openai_refuses
from tests.fakes.openai.server import Handler, Service, openai_server
from tests.support.cloud_chats import pieces, start
from tests.support.programs import TIMEOUT, Program, call, fetch, said, until

pytest.importorskip("openai", reason="the chatgpt backend needs openai")

SOON = 30.0  # seconds, of which a busy machine may need many, and long before any time limit
LATE = 600.0  # such a limit


class Chat:
    """A chat on a thread of its own, which can be stopped."""

    def __init__(self, executor: Any) -> None:
        self.runner, self.pieces = GeneratorRunner(), list[str]()
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(executor,), daemon=True)
        self._thread.start()

    def _run(self, executor: Any) -> None:
        try:
            pieces(executor, "hi", runner=self.runner, write=self.pieces.append)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.errors.append(error)

    def stop(self) -> float:
        """Stop the chat; return how many seconds its thread took to end."""
        begun = time.monotonic()
        self.runner.cancel()
        assert self.runner.ended.wait(TIMEOUT)
        self._thread.join(TIMEOUT)
        return time.monotonic() - begun


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Give what makes a backend of a service's URL; close them."""
    for name in ("OPENAI_API_KEY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client, "CONNECT_TIMEOUT", LATE)
    given = ("--context_window", 4096, "--timeout", LATE)
    begun: list[Any] = []

    def make(url: str) -> Any:
        begun.append(start(ChatgptExecutor, "--base_url", url, *given))
        return begun[-1]

    yield make
    for executor in begun:
        executor.client.close()


@pytest.mark.parametrize(
    ("talk", "shown"),
    [
        (openai_is_silent.before_the_head, []),
        (openai_is_silent.before_the_first_word, []),
        (openai_is_silent.after_the_first_word, ["one"]),
    ],
)
def test_the_service_sees_the_end_at_once(
    connect: Callable[[str], Any], talk: Callable[[Handler], None], shown: list[str]
) -> None:
    """While it is silent: before its head, before its first word, in the middle."""
    with openai_server(talk) as service:
        chat = Chat(connect(service.url))
        until(lambda: service.chats and chat.pieces == shown)
        begun = time.monotonic()
        assert chat.stop() < SOON
        assert service.gone.wait(SOON)
        assert time.monotonic() - begun < SOON
        assert (chat.pieces, chat.errors) == (shown, [])
        assert len(service.chats) == 1, "a stopped chat is not sent again"


def test_a_stop_ends_the_wait_for_another_try(
    connect: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more is asked."""
    monkeypatch.setattr(errors, "BACKOFF_FIRST", LATE)
    monkeypatch.setattr(errors, "BACKOFF_MAX", LATE)
    with openai_server(openai_refuses.always(500, {})) as service:
        chat = Chat(connect(service.url))
        until(lambda: service.chats)
        assert chat.stop() < SOON
        assert len(service.chats) == 1


def test_a_stop_ends_the_wait_for_a_connection(connect: Callable[[str], Any]) -> None:
    """To a machine that does not answer: here one whose queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        chat = Chat(connect(f"http://127.0.0.1:{address[1]}/v1"))
        assert not chat.runner.ended.wait(0.2), "it waits"
        assert chat.stop() < SOON
        assert chat.errors == []
        for one in waiting:
            one.close()


def test_a_stop_ends_the_wait_for_a_name(
    connect: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own call goes on; no thread waits for it."""
    asked, over = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def slow(host: Any, *others: Any, **more: Any) -> Any:
        if host == "slow.test" and not more.get("flags"):
            asked.set()
            over.wait(LATE)
        return real("127.0.0.1" if host == "slow.test" and over.is_set() else host, *others, **more)

    monkeypatch.setattr(connection.socket, "getaddrinfo", slow)
    chat = Chat(connect("http://slow.test:9/v1"))
    assert asked.wait(TIMEOUT)
    assert chat.stop() < SOON
    over.set()


def test_a_stop_ends_a_handshake(connect: Callable[[str], Any]) -> None:
    """With a service that takes the connection and never speaks TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        chat = Chat(connect(f"https://127.0.0.1:{listener.getsockname()[1]}/v1"))
        other, _ = listener.accept()
        with other:
            assert other.recv(5), "the handshake has begun"
            assert chat.stop() < SOON
            other.settimeout(SOON)
            while other.recv(65536):
                pass


@pytest.mark.slow
def test_the_kernels_abort_reaches_the_service() -> None:
    """Through the whole program: GET /chat/abort, and a reader who leaves."""
    with openai_server(openai_is_silent.before_the_first_word) as service:
        options = ("--base_url", service.url, "--ignore_kernel", "--host", "127.0.0.1")
        with Program("chatgpt", *options, "--context_window", "4096") as program:
            program.wait_for("ready")
            _stop_by_abort(program, service)
            service.gone.clear()
            with call(program.url, said("hi")) as response:
                assert response.status == 200
                until(lambda: len(service.chats) == 2)
            assert service.gone.wait(SOON)


def _stop_by_abort(program: Program, service: Service) -> None:
    answers: list[str] = []
    chat = threading.Thread(target=lambda: answers.append(fetch(program.url, said("hi"))[1]))
    chat.start()
    until(lambda: service.chats)
    begun = time.monotonic()
    assert fetch(f"{program.url}/abort")[1] == '{"msg":"Aborted"}'
    assert service.gone.wait(SOON)
    chat.join(SOON)
    assert time.monotonic() - begun < SOON
    assert answers == [""]
