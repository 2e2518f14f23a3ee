"""A Kernel's protocol as its front ends speak it: forms, and the events of an answer. No I/O.

An answer is raw text, or lines of JSON where the executor and the Kernel are of 0.4; its first
characters tell which. Side notes are marked within the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.side_notes import SideNoteGate

from .answer import (
    FAILED,
    LENGTH,
    NOTE,
    PROGRESS,
    STOP,
    TEXT,
    THOUGHT,
    Event,
    Finish,
    Piece,
    ServerError,
    Usage,
)

FRAME = 'data: {"'  # how a framed answer begins
LONGEST_LINE = 16 << 20  # characters of a framed line
REASONS = {0: STOP, 1: LENGTH}  # by exit code; all others: FAILED
Ids = dict[str, str]  # name, history_id and user_id of a chat


def chat_form(ids: Ids, messages: Sequence[Message], system: str) -> bytes:
    """Return the form that asks for an answer; the system prompt travels as a bot's does."""
    history = [{"isbot": one["role"] == "assistant", "msg": one["content"]} for one in messages]
    modelfile = [{"name": "system", "args": system}] if system else []
    form = {**ids, "input": json.dumps(history), "modelfile": json.dumps(modelfile)}
    return urlencode(form).encode()


def schedule_form(ids: Ids) -> bytes:
    """Return the form that asks for a place at an executor."""
    return urlencode(ids).encode()


def abort_form(ids: Ids) -> bytes:
    """Return the form that stops the answer."""
    form = {"history_id": f"[{ids['history_id']}]", "user_id": ids["user_id"]}
    return urlencode(form).encode()


def access_codes(body: bytes) -> list[str]:
    """Return the names of GET worker/list; raises ServerError."""
    try:
        names = json.loads(body)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list):
        raise ServerError("the Kernel's list of executors cannot be read")
    return [str(one) for one in names]


class AnswerReader:
    """Read an answer in either format. The caller feeds decoded text, then calls `end`."""

    def __init__(self) -> None:
        self._held = ""
        self._is_framed: bool | None = None  # None until the first characters tell
        self._gate = SideNoteGate()
        self._reason = STOP

    def feed(self, text: str) -> Iterator[Event]:
        """Yield what can be told from the text so far."""
        self._held += text
        if self._is_framed is None and not (FRAME.startswith(self._held) and self._held != FRAME):
            self._is_framed = self._held.startswith(FRAME)
        if self._is_framed is None:
            return
        if not self._is_framed:
            raw, self._held = self._held, ""
            yield from self._pass(raw)
            return
        *lines, self._held = self._held.split("\n")
        if len(self._held) > LONGEST_LINE:
            raise ServerError("the Kernel sends a line without an end")
        for line in lines:
            yield from self._read_line(line)

    def end(self) -> Iterator[Event]:
        """Yield the rest, the side notes and how the answer ended."""
        rest, self._held = self._held, ""
        yield from self._read_line(rest) if self._is_framed else self._pass(rest)
        self._gate.close()
        if held := self._gate.release():
            yield Piece(TEXT, held)
        yield from (Piece(NOTE, note) for note in self._gate.notes)
        yield Finish(self._reason)

    def _pass(self, text: str) -> Iterator[Event]:
        """Pass text through the gate that keeps side notes."""
        if passed := self._gate.feed(text):
            yield Piece(TEXT, passed)

    def _read_line(self, line: str) -> Iterator[Event]:
        try:
            found = json.loads(line.removeprefix("data: ")) if line.strip() else {}
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            yield from self._pass(f"{line}\n")  # what is no frame is text, as in the front ends
            return
        delta = found.get("delta")
        chunks = [one for one in delta if isinstance(one, dict)] if isinstance(delta, list) else []
        said = [_value(one, "text", "value") for one in chunks]
        for chunk in chunks:
            refusal = _value(chunk, "refusal", "text")
            if refusal and refusal not in said:  # executors may repeat it as text
                yield from self._pass(refusal)
            yield from self._read_chunk(chunk)
        usage = found.get("usage")
        if isinstance(usage, dict):
            counts = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
            yield Usage(*(one if isinstance(one, int) else 0 for one in counts))

    def _read_chunk(self, chunk: dict[str, Any]) -> Iterator[Event]:
        yield from self._pass(_value(chunk, "text", "value"))
        if thought := _value(chunk, "thought", "text"):
            yield Piece(THOUGHT, thought)
        if line := _value(chunk, "log", "text"):
            yield Piece(NOTE, f"[{_value(chunk, 'log', 'level')}] {line}")
        if doing := _value(chunk, "progress", "desc"):
            yield Piece(PROGRESS, doing)
        for name in ("image_url", "audio_url"):
            if isinstance(chunk.get(name), str):
                yield Piece(NOTE, chunk[name])
        if isinstance(chunk.get("exit_code"), int):
            self._reason = REASONS.get(chunk["exit_code"], FAILED)


def _value(chunk: dict[str, Any], kind: str, name: str) -> str:
    """Return a text in a chunk, "" if it has none."""
    inner = chunk.get(kind)
    value = inner.get(name) if isinstance(inner, dict) else None
    return value if isinstance(value, str) else ""
