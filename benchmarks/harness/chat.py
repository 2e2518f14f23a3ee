"""A cheap client: send a chat from a raw socket, record what comes and when, check it later."""

import json
import resource
import selectors
import socket
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

from harness.process import HOST

END = b"0\r\n\r\n"
LAST_LINES = b"\r\n" + END  # a head may end with END, too
HEAD_END = b"\r\n\r\n"
READ_BYTES = 262_144
SILENCE_SECONDS = 30.0


class WrongAnswerError(RuntimeError):
    """Say what came in place of the expected bytes."""


class Chat:
    """One chat on a connection of its own; the clock runs from before the connect."""

    def __init__(self, port: int, path: str, text: str) -> None:
        self.text = text
        self.parts: list[bytes] = []
        self.arrivals: list[float] = []
        self.over = False
        request = self.request_bytes(path, text)
        self.started = time.perf_counter()
        self.socket = socket.create_connection((HOST, port), timeout=SILENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(request)

    def request_bytes(self, path: str, text: str) -> bytes:
        """Return a chat request as the Kernel sends it."""
        form = urlencode({"input": json.dumps([{"isbot": False, "msg": text}])}).encode()
        return post(path, "application/x-www-form-urlencoded", form)

    def read(self) -> bool:
        """Read the bytes that have come; return whether more are to come."""
        data = self.socket.recv(READ_BYTES)
        self.arrivals.append(time.perf_counter())
        self.parts.append(data)
        self.over = not data or self._ended(data)
        return not self.over

    def _ended(self, data: bytes) -> bool:
        """Say whether the answer's last chunk is here; the texts hold no line ends to mimic it."""
        if len(data) >= len(LAST_LINES):
            return data.endswith(LAST_LINES)
        return b"".join(self.parts[-len(LAST_LINES) :]).endswith(LAST_LINES)

    def read_to_end(self) -> "Chat":
        """Read the whole answer and close."""
        while self.read():
            pass
        self.socket.close()
        return self

    def started_flowing(self) -> bool:
        """Say whether anything behind the head has come."""
        return bool(b"".join(self.parts).partition(HEAD_END)[2])

    def complete(self) -> bool:
        """Say whether every byte came, in order, with a proper end."""
        try:
            return unchunked(self.parts) == self.text.encode()
        except WrongAnswerError:
            return False

    def check(self) -> "Chat":
        """Raise WrongAnswerError unless the answer is whole."""
        if not self.complete():
            raise WrongAnswerError(repr(b"".join(self.parts)[:500]))
        return self

    def seconds(self) -> float:
        """Return the time from the connect to the last byte."""
        return self.arrivals[-1] - self.started

    def first_piece_seconds(self) -> float:
        """Return the time from the connect to the first byte of the body."""
        raw = b"".join(self.parts)
        size_line = raw.index(HEAD_END) + len(HEAD_END)
        first_byte = raw.index(b"\r\n", size_line) + 2
        come = 0
        for part, arrival in zip(self.parts, self.arrivals, strict=True):
            come += len(part)
            if come > first_byte:
                return arrival - self.started
        raise WrongAnswerError("no body")

    def gaps(self) -> list[float]:
        """Return the silences between arrivals, in seconds."""
        return [later - earlier for earlier, later in pairwise(self.arrivals)]


class FramedChat(Chat):
    """A chat whose answer comes in the lines of Kuwa 0.4; what a line costs is not judged here."""

    def complete(self) -> bool:
        """Say whether every character came, in order, with one proper last line."""
        try:
            *lines, last = map(parsed, unchunked(self.parts).splitlines())
        except (WrongAnswerError, ValueError):
            return False
        texts = [one["text"]["value"] for line in lines for one in line["delta"]]
        return "".join(texts) == self.text and last["finish_reason"] == "stop"


class ApiChat(Chat):
    """A chat through /v1, as a stream of events."""

    def request_bytes(self, path: str, text: str) -> bytes:
        """Return a request of OpenAI's protocol."""
        messages = [{"role": "user", "content": text}]
        body = {"model": "debug", "messages": messages, "stream": True}
        return post(path, "application/json", json.dumps(body).encode())

    def complete(self) -> bool:
        """Say whether every character came, in order, with a proper end."""
        try:
            *events, done = unchunked(self.parts).split(b"\n\n")[:-1]
            deltas = [parsed(event)["choices"][0]["delta"] for event in events]
        except (WrongAnswerError, ValueError):
            return False
        return "".join(one.get("content", "") for one in deltas) == self.text and (
            done == b"data: [DONE]"
        )

    def first_text_seconds(self) -> float:
        """Return the time from the connect to the first event with text."""
        for number, arrival in enumerate(self.arrivals, 1):
            if f'"content": "{self.text[0]}'.encode() in b"".join(self.parts[:number]):
                return arrival - self.started
        raise WrongAnswerError("no text")


def parsed(line: bytes) -> Any:
    """Return what a line of Kuwa 0.4, or an event, holds; raises ValueError if it is none."""
    if not line.startswith(b"data: "):
        raise ValueError(line)
    return json.loads(line[len(b"data: ") :])


def post(path: str, content_type: str, body: bytes) -> bytes:
    """Return a request with this body."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def unchunked(parts: Sequence[bytes]) -> bytes:
    """Return the body of a chunked answer; raise WrongAnswerError for any other."""
    head, _, rest = b"".join(parts).partition(HEAD_END)
    if not head.startswith(b"HTTP/1.1 200") or not rest.endswith(END):
        raise WrongAnswerError(repr(head[:200]))
    pieces = []
    position = 0
    while size := int(rest[position : (start := rest.index(b"\r\n", position) + 2)], 16):
        pieces.append(rest[start : start + size])
        position = start + size + 2
    return b"".join(pieces)


def read_together(chats: Sequence[Chat], seconds: float) -> None:
    """Read all chats to their ends, or until the time is up, in one thread."""
    deadline = time.perf_counter() + seconds
    with selectors.DefaultSelector() as selector:
        for chat in chats:
            selector.register(chat.socket, selectors.EVENT_READ, chat)
        while selector.get_map() and (left := deadline - time.perf_counter()) > 0:
            for key, _ in selector.select(left):
                if not _still_open(key.data):
                    selector.unregister(key.fileobj)


def _still_open(chat: Chat) -> bool:
    try:
        return chat.read()
    except ConnectionError:
        return False


def close_all(chats: Sequence[Chat]) -> None:
    """Hang up."""
    for chat in chats:
        chat.socket.close()


def allow_many_connections() -> None:
    """Raise this process's soft limit of open files to its hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
