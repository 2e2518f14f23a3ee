"""OpenAI's protocol as a client speaks it: requests, and the events of an answer. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from kuwa_min.chat.modelfile import Message

from .answer import NOTE, TEXT, THOUGHT, Event, Finish, Piece, ServerError, Usage

FIELDS = {"reasoning_content": THOUGHT, "reasoning": THOUGHT, "content": TEXT, "refusal": TEXT}
LONGEST_LINE = 16 << 20  # characters of one event
DONE = "[DONE]"


def chat_request(name: str, messages: Sequence[Message], system: str) -> bytes:
    """Return the body of a request for a stream."""
    first: list[Message] = [{"role": "system", "content": system}] if system else []
    request = {
        "model": name,
        "messages": [*first, *messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(request).encode()


def model_names(body: bytes) -> list[str]:
    """Return the names of GET /v1/models; raises ServerError."""
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ServerError("the server's list of models cannot be read") from None


def error_message(body: bytes) -> str:
    """Return the sentence of an error, in whatever shape; "" without one."""
    text = body.decode("utf-8", "replace").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.startswith("<") else text  # a page of some proxy
    while isinstance(found, dict):
        names = (name for name in ("error", "message", "msg", "detail") if found.get(name))
        found = found.get(next(names, ""))
    return found if isinstance(found, str) else ""


class EventReader:
    """Read server-sent events; is_done: the answer has ended as it should."""

    def __init__(self) -> None:
        self._held = ""
        self.is_done = False

    def feed(self, text: str) -> Iterator[Event]:
        """Yield the events of complete lines; raises ServerError for an error among them."""
        *lines, self._held = (self._held + text).split("\n")
        if len(self._held) > LONGEST_LINE:
            raise ServerError("the server sends a line without an end")
        for line in lines:
            yield from self._read(line)

    def _read(self, line: str) -> Iterator[Event]:
        field, _, value = line.rstrip("\r").partition(":")
        if field == "data" and value.strip() == DONE:
            self.is_done = True
        elif field == "data":
            yield from self.read_object(value)

    def read_object(self, text: str) -> Iterator[Event]:
        """Yield the events of one JSON object: a chunk, or a whole answer."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise ServerError("the server sends what is no event of an answer") from None
        if not isinstance(found, dict):
            return
        if found.get("error"):
            raise ServerError(error_message(text.encode("utf-8", "replace")) or "the server failed")
        for choice in _objects(found.get("choices"))[:1]:
            yield from self._read_choice(choice)
        notes = found.get("side_notes")
        yield from (Piece(NOTE, str(one)) for one in (notes if isinstance(notes, list) else []))
        usage = found.get("usage")
        if isinstance(usage, dict):
            yield Usage(_number(usage, "prompt_tokens"), _number(usage, "completion_tokens"))

    def _read_choice(self, choice: dict[str, Any]) -> Iterator[Event]:
        for part in _objects([choice.get("delta"), choice.get("message")]):
            for name, kind in FIELDS.items():
                if isinstance(part.get(name), str) and part[name]:
                    yield Piece(kind, part[name])
        if isinstance(choice.get("finish_reason"), str):
            self.is_done = True
            yield Finish(choice["finish_reason"])


def _objects(found: Any) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _number(found: dict[str, Any], name: str) -> int:
    value = found.get(name)
    return value if isinstance(value, int) else 0
