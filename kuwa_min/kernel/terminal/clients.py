"""Ask a Kernel or an OpenAI-compatible server for an answer, and stop it when it is not read on.

Without the environment's proxies. Everything runs on the caller's thread: Ctrl-C interrupts a read,
and closing the generator of `answer` stops the answer at the server.
"""

from __future__ import annotations

import codecs
import contextlib
import http.client
import os
import random
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Protocol, cast
from urllib.parse import SplitResult, urlsplit

from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.sentence import CHINESE, ENGLISH, Language
from kuwa_min.kernel.protocol import READY, worker_url
from kuwa_min.kernel.records import BUSY, NO_MACHINE
from kuwa_min.process.deadline import Response, open_connection

from . import kernel_protocol, openai_protocol
from .answer import PROGRESS, Event, Piece, ServerError
from .sentences import (
    BROKE_OFF,
    FAILED_AT,
    NO_EXECUTOR,
    NOT_IN_TIME,
    NOTHING_LISTENS,
    WAITING_FOR_SLOT,
)

HEAD_TIMEOUT = 600.0  # seconds until an answer begins: it may wait for a slot
READ_TIMEOUT = 300.0  # seconds between two reads of one
SHORT_TIMEOUT = 10.0  # seconds for a list of names, or a stop
RETRY_SECONDS = 2.0  # between two requests for a place
READ_SIZE = 64 << 10  # bytes asked for at once
LONGEST_BODY = 16 << 20  # bytes of what is no stream
EVENT_STREAM = "text/event-stream"
FORM = "application/x-www-form-urlencoded"
Events = Generator[Event, None, None]
LANGUAGES = {CHINESE: "zh-TW", ENGLISH: "en"}  # as Accept-Language has them


class Client(Protocol):
    """A server that answers chats; its methods raise ServerError."""

    def names(self) -> list[str]:
        """Return the access codes that it has."""

    def answer(self, name: str, messages: Sequence[Message], system: str) -> Events:
        """Yield an answer as it comes; closing the generator stops it at the server."""


class OpenAIClient:
    """A client of /v1. base_url: with its path; token: "" without one."""

    def __init__(self, base_url: str, token: str = "") -> None:
        self._url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def names(self) -> list[str]:
        """Return the names of its models."""
        with _request("GET", f"{self._url}/models", self._headers, SHORT_TIMEOUT) as response:
            return openai_protocol.model_names(_whole(response))

    def answer(self, name: str, messages: Sequence[Message], system: str) -> Events:
        """Yield an answer; the connection is closed when it is not read on."""
        body = openai_protocol.chat_request(name, messages, system)
        headers = {**self._headers, "Content-Type": "application/json"}
        reader, url = openai_protocol.EventReader(), f"{self._url}/chat/completions"
        with _request("POST", url, headers, HEAD_TIMEOUT, body) as response:
            if not (response.getheader("Content-Type") or "").startswith(EVENT_STREAM):
                yield from reader.read_object(_whole(response).decode("utf-8", "replace"))
            else:
                for text in _texts(response):
                    yield from reader.feed(text)
        if not reader.is_done:
            raise ServerError(BROKE_OFF)


class KernelClient:
    """A client of a Kernel, as its chat page is. version: of its interface, a part of its URLs."""

    def __init__(self, kernel_url: str, version: str) -> None:
        self._worker = worker_url(kernel_url, version, "")
        self._chat = f"{kernel_url.rstrip('/')}/{version}/chat/"
        self._user, self._history = _random_id(), _random_id()
        # The second asks executors for framed lines, the third for thoughts and errors as chunks.
        self._headers = {
            "Content-Type": FORM,
            "X-Kuwa-User-Id": self._user,
            "X-Kuwa-Thoughts": "apart",
        }

    def names(self) -> list[str]:
        """Return the access codes of its executors."""
        with _request("GET", f"{self._worker}list", {}, SHORT_TIMEOUT) as response:
            return kernel_protocol.access_codes(_whole(response))

    def answer(self, name: str, messages: Sequence[Message], system: str) -> Events:
        """Wait for a place and yield an answer; the Kernel is told when it is not read on."""
        ids = {"name": name, "history_id": self._history, "user_id": self._user}
        form = kernel_protocol.chat_form(ids, messages, system)
        yield from self._reserve(ids)
        reader = kernel_protocol.AnswerReader()
        try:
            with _request(
                "POST", f"{self._chat}completions", self._headers, HEAD_TIMEOUT, form
            ) as response:
                for text in _texts(response):
                    yield from reader.feed(text)
                yield from reader.end()
        except (KeyboardInterrupt, GeneratorExit):
            self._abort(ids)
            raise

    def _reserve(self, ids: kernel_protocol.Ids) -> Iterator[Event]:
        """Ask for a place until there is one."""
        form, has_said = kernel_protocol.schedule_form(ids), False
        while True:
            with _request(
                "POST", f"{self._worker}schedule", self._headers, SHORT_TIMEOUT, form
            ) as response:
                word = _whole(response).decode("utf-8", "replace").strip()
            if word == READY:
                return
            if word == NO_MACHINE:
                raise ServerError(NO_EXECUTOR.format(ids["name"]))
            if word != BUSY:
                raise ServerError(f"the Kernel answers {word[:80]!r} where a place was asked for")
            if not has_said:
                yield Piece(PROGRESS, WAITING_FOR_SLOT)
            has_said = True
            time.sleep(RETRY_SECONDS)

    def _abort(self, ids: kernel_protocol.Ids) -> None:
        form = kernel_protocol.abort_form(ids)
        with (
            contextlib.suppress(ServerError),
            _request("POST", f"{self._chat}abort", self._headers, SHORT_TIMEOUT, form),
        ):
            pass


def _random_id() -> str:
    """Return the id of a user or a chat; positive, as those of chat rooms."""
    return str(random.randrange(1, 10**9))


@contextlib.contextmanager
def _request(
    method: str, url: str, headers: dict[str, str], seconds: float, body: bytes | None = None
) -> Iterator[Response]:
    """Send a request and give its response; raises ServerError, also for what the block meets."""
    parts = urlsplit(url)
    connection = open_connection(parts, seconds)
    try:
        with contextlib.closing(connection):
            fields = {
                **headers,
                "Connection": "close",
                "Accept-Language": LANGUAGES[user_language()],
            }
            connection.request(method, parts.path, body, fields)
            response = cast(Response, connection.getresponse())
            if response.status >= 400 or 300 <= response.status < 400:
                raise ServerError(_refusal(response))
            yield response
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(FAILED_AT.format(_origin(parts), _reason(error))) from None


def user_language() -> Language:
    """Return the language of the environment."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return CHINESE if next((one for one in names if one), "").startswith("zh") else ENGLISH


def _texts(response: Response) -> Iterator[str]:
    """Yield the body as it comes; characters are never split."""
    response.lift_deadline(READ_TIMEOUT)
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    while data := response.read1(READ_SIZE):
        yield decode(data)
    yield decode(b"", True)


def _whole(response: Response) -> bytes:
    body = response.read(LONGEST_BODY + 1)
    if len(body) > LONGEST_BODY:
        raise ServerError(f"the server sends more than {LONGEST_BODY >> 20} MiB")
    return body


def _refusal(response: Response) -> str:
    message = openai_protocol.error_message(response.read(READ_SIZE))
    return message or f"the server answers with status {response.status} {response.reason}"


def _origin(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc}"


def _reason(error: Exception) -> str:
    """Say in a few words why a request failed."""
    if isinstance(error, ConnectionRefusedError):
        return NOTHING_LISTENS
    if isinstance(error, TimeoutError):
        return NOT_IN_TIME
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
