"""Both clients against our own servers, and against servers that fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing, contextmanager

import pytest

from kuwa_min.chat.chunks import Piece as Chunk
from kuwa_min.chat.chunks import ThoughtChunk
from kuwa_min.errors import AnswerError
from kuwa_min.kernel.embedded import EmbeddedKernel
from kuwa_min.kernel.protocol import ChatRequest
from kuwa_min.kernel.terminal import clients
from kuwa_min.kernel.terminal.answer import (
    FAILED,
    NOTE,
    PROGRESS,
    TEXT,
    THOUGHT,
    Answer,
    Piece,
    ServerError,
)
from kuwa_min.kernel.terminal.clients import Client, KernelClient, OpenAIClient
from tests.fakes.kuwa.executor_answers import Executor, chunk
from tests.fakes.kuwa.kernel_03 import kernel_03
from tests.fakes.kuwa.kernel_04 import kernel_04
from tests.kuwa_min.serving.api_client import api
from tests.kuwa_min.serving.test_routes import Compute, Running, running
from tests.support.programs import fetch, until

EVENTS = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"


async def echo(chat: ChatRequest) -> AsyncGenerator[str, None]:
    """Repeat the system prompt and the last message."""
    yield f"{chat.modelfile.override_system_prompt or ''}|"
    for message in chat.history:
        if message["role"] != "system":
            yield message["content"]


async def endless(_: ChatRequest) -> AsyncGenerator[str, None]:
    """Say one word, then wait for a stop."""
    yield "word"
    await asyncio.Event().wait()


def embedded() -> EmbeddedKernel:
    """Return our own Kernel."""
    return EmbeddedKernel("127.0.0.1", 0)


KERNELS = {"embedded": embedded, "0.3.4": kernel_03, "0.4": kernel_04}


@contextmanager
def kernel_with(
    compute: Compute, kind: str = "embedded"
) -> Iterator[tuple[KernelClient, Running, str]]:
    """Serve an executor "bot" through a Kernel; give the Kernel's URL, too."""
    with KERNELS[kind]() as kernel, running(compute) as one:
        url = kernel.url.rstrip("/")
        fetch(f"{url}/v1.0/worker/register", {"name": "bot", "endpoint": one.chat})
        yield KernelClient(url, "v1.0"), one, url


def whole(client: Client, name: str, *, system: str = "") -> Answer:
    """Ask and return the whole answer."""
    answer = Answer()
    for event in client.answer(name, [{"role": "user", "content": "héllo 你好"}], system):
        answer.add(event)
    return answer


def test_an_executor_answers_at_v1() -> None:
    """With a token, which is refused if it is wrong; the system prompt is read."""
    with api(echo, tokens=["right-token-of-a-client"]) as one:
        client = OpenAIClient(one.url, "right-token-of-a-client")
        assert client.names() == ["m", "a/b c"]
        answer = whole(client, "m", system="brief")
        assert answer.text.endswith("héllo 你好")
        assert answer.finish_reason == "stop"
        assert answer.usage is not None
        with pytest.raises(ServerError, match="token"):
            whole(OpenAIClient(one.url), "m")
        with pytest.raises(ServerError, match="nowhere"):
            whole(client, "nowhere")


@pytest.mark.parametrize("kind", KERNELS)
def test_a_kernel_answers(kind: str) -> None:
    """The system prompt reaches the executor as that of a bot."""
    with kernel_with(echo, kind) as (client, _, _):
        assert client.names() == ["bot"]
        answer = whole(client, "bot", system="brief")
        assert (answer.text, answer.finish_reason) == ("brief|héllo 你好", "stop")
        assert whole(client, "bot").text == "|héllo 你好"  # its place is free again
        with pytest.raises(ServerError, match="no executor serves nowhere"):
            whole(client, "nowhere")


def test_an_answer_that_fails_says_why() -> None:
    """A backend's sentence, through both."""

    async def failing(_: ChatRequest) -> AsyncGenerator[str, None]:
        yield "begun"
        raise AnswerError("It cannot go on.")

    with api(failing) as one, pytest.raises(ServerError, match="It cannot go on"):
        whole(OpenAIClient(one.url), "m")
    with kernel_with(failing) as (client, _, _):
        answer = whole(client, "bot")
        assert (answer.text, answer.finish_reason) == ("begun", FAILED)
        assert answer.pieces[NOTE] == ["[ERROR] It cannot go on."]


@pytest.mark.parametrize("kind", KERNELS)
def test_thoughts_come_apart_from_the_answer(kind: str) -> None:
    """From a server of /v1, and through each Kernel, which passes the header on."""

    async def thinking(_: ChatRequest) -> AsyncGenerator[Chunk, None]:
        yield ThoughtChunk("Hm, ")
        yield ThoughtChunk("well.")
        yield "Yes."

    with api(thinking) as one:
        answers = [whole(OpenAIClient(one.url), "m")]
    with kernel_with(thinking, kind) as (client, _, _):
        answers.append(whole(client, "bot"))
    for answer in answers:
        assert (answer.text, answer.joined(THOUGHT)) == ("Yes.", "Hm, well.")


def test_an_answer_that_is_not_read_on_is_stopped_at_the_server() -> None:
    """The slot is free."""
    with api(endless) as one:
        events = OpenAIClient(one.url).answer("m", [{"role": "user", "content": "x"}], "")
        with closing(events):
            assert next(events) == Piece(TEXT, "word")
            assert one.metrics.busy_slots.value == 1
        until(lambda: one.metrics.busy_slots.value == 0)


@pytest.mark.parametrize("kind", KERNELS)
def test_an_answer_that_is_not_read_on_is_stopped_at_the_kernel(kind: str) -> None:
    """The slot is free, and the Kernel has a place for the next question."""
    with kernel_with(endless, kind) as (client, executor, _):
        with closing(client.answer("bot", [{"role": "user", "content": "x"}], "")) as answer:
            assert next(answer) == Piece(TEXT, "word")
            assert executor.metrics.busy_slots.value == 1
        until(lambda: executor.metrics.busy_slots.value == 0)
        with closing(client.answer("bot", [{"role": "user", "content": "y"}], "")) as answer:
            assert Piece(TEXT, "word") in answer  # perhaps after it has waited for its place


def test_a_chat_waits_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so once, and goes on when one is free."""
    with kernel_with(endless) as (client, _, url):
        first = client.answer("bot", [{"role": "user", "content": "x"}], "")
        next(first)
        naps = iter([None, first])

        def sleep(_: float) -> None:
            if (nap := next(naps, None)) is not None:
                nap.close()

        monkeypatch.setattr(clients.time, "sleep", sleep)
        other = KernelClient(url, "v1.0")
        with closing(other.answer("bot", [{"role": "user", "content": "y"}], "")) as events:
            assert next(events) == Piece(PROGRESS, clients.WAITING_FOR_SLOT)
            assert next(events) == Piece(TEXT, "word")


@pytest.mark.parametrize(
    ("status", "fields", "body", "message"),
    [
        (b"503 Busy", EVENTS, chunk('{"error": {"message": "It loads."}}') + chunk(""), "It loads"),
        (b"404 Not Found", EVENTS, chunk("<html>") + chunk(""), "status 404"),
        (b"302 Found", EVENTS + b"Location: /elsewhere\r\n", chunk(""), "status 302"),
        (b"200 OK", EVENTS, chunk('data: {"choices": []}\n\n') + chunk(""), "broke off"),
        (b"200 OK", EVENTS, b"5\r\nhi", "127.0.0.1"),
        (b"200 OK", b"Content-Length: 1\r\n", b"x", "no event"),
        (b"200 OK", b"Content-Length: 2\r\n", b"{}", "broke off"),
        (b"nonsense", b"", b"", "127.0.0.1"),
    ],
)
def test_what_a_server_does_wrong_is_a_line(
    status: bytes, fields: bytes, body: bytes, message: str
) -> None:
    """Refusals in every shape, redirects, answers that are cut."""
    with Executor() as server:
        server.status, server.fields = status, fields + b"Connection: close\r\n"
        server.body = body
        with pytest.raises(ServerError, match=message):
            whole(OpenAIClient(f"{server.url}/v1"), "m")


def test_a_server_that_is_not_there_is_a_line() -> None:
    """With its place, and without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerError, match=f"http://127.0.0.1:{port}: nothing listens there"):
        OpenAIClient(f"http://127.0.0.1:{port}/v1").names()


def test_lists_and_words_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile server fills no memory."""
    monkeypatch.setattr(clients, "LONGEST_BODY", 10)
    with Executor() as server:
        server.body = chunk("x" * 100) + chunk("")
        with pytest.raises(ServerError, match="more than"):
            KernelClient(server.url, "v1.0").names()
