"""Ask a model over HTTP, ours as the Kernel does and others as OpenAI's clients do.

One character of the answer is one token of a random model: `tokens` is both. Knows no process.
"""

import json
import re
import socket
import time
from collections.abc import Sequence
from urllib.parse import urlencode

from harness.chat import END, SILENCE_SECONDS, Chat, WrongAnswerError, unchunked
from harness.process import HOST

CONTENT = re.compile(rb'"content": ?"(?:\\[nrt]|\s)*(?:[^"\\\s]|\\[^nrt])')  # text that can be seen
ROLES = ("user", "assistant")


class Answer(Chat):
    """A streamed answer of `tokens` tokens; the clock runs from before the connect."""

    def __init__(self, port: int, request: bytes, tokens: int) -> None:
        self.tokens = tokens
        self.parts: list[bytes] = []
        self.arrivals: list[float] = []
        self.over = False
        self.started = time.perf_counter()
        self.socket = socket.create_connection((HOST, port), timeout=SILENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(request)

    def said(self) -> str:
        """Return the answer; raises WrongAnswerError if it did not come to its end."""
        return self._text(self.parts)

    def tokens_by(self, moment: float) -> int:
        """Return how many tokens had come by then; the server writes whole chunks."""
        come = [part for part, at in zip(self.parts, self.arrivals, strict=True) if at <= moment]
        return len(self._text([*come, END]))

    def _text(self, parts: Sequence[bytes]) -> str:
        return unchunked(parts).decode()

    def complete(self) -> bool:
        """Say whether every token came, and nothing else."""
        return len(self.said()) == self.tokens

    def first_arrival(self) -> float:
        """Return when the first text came, on the clock of `arrivals`."""
        return self.started + self.first_piece_seconds()


class EventAnswer(Answer):
    """The same in server-sent events, of which the first ones may hold no text."""

    def _text(self, parts: Sequence[bytes]) -> str:
        events = super()._text(parts).split("data: ")[1:]
        chunks = [json.loads(event) for event in events if not event.startswith("[DONE]")]
        return "".join(
            choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
        )

    def first_piece_seconds(self) -> float:
        """Return the time from the connect to the first event with text that can be seen."""
        come = b""
        for part, arrival in zip(self.parts, self.arrivals, strict=True):
            come += part
            if CONTENT.search(come):
                return arrival - self.started
        raise WrongAnswerError("no text")


def form_request(path: str, said: Sequence[str], **options: object) -> bytes:
    """Return what the Kernel sends: what was said in turn, the user first; a bot's options."""
    history = [{"isbot": bool(number % 2), "msg": text} for number, text in enumerate(said)]
    modelfile = [
        {"name": "parameter", "args": f"llm_{name} {value}"} for name, value in options.items()
    ]
    form = {"input": json.dumps(history), "modelfile": json.dumps(modelfile)}
    return post(path, "application/x-www-form-urlencoded", urlencode(form).encode())


def completion_request(model: str, said: Sequence[str], **options: object) -> bytes:
    """Return the same chat as OpenAI's clients send it, streamed."""
    messages = [{"role": ROLES[number % 2], "content": text} for number, text in enumerate(said)]
    body = {"model": model, "messages": messages, "stream": True, **options}
    return post("/v1/chat/completions", "application/json", json.dumps(body).encode())


def get(path: str) -> bytes:
    """Return a request without a body, after which the server is to hang up."""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()


def post(path: str, kind: str, body: bytes) -> bytes:
    """Return a request with a body of a kind."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
