"""Read answers as the front ends of Kuwa do: 0.4 line by line, rooms of 0.3.4 in windows of time.

Only what decides over text, side notes and exit code is here; the rules are stated in
kuwa_min.kernel.wire and kuwa_min.chat.side_notes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

BEGIN, END = "<<<WARNING>>>", "<<</WARNING>>>"
BLOCK = re.compile(f"{BEGIN}.*?{END}", re.DOTALL)
WINDOW = 0.1  # seconds


class Shown(NamedTuple):
    """What a user sees in the end: the text, the side notes, how the answer ended."""

    text: str
    notes: list[str]
    exit_code: int | None = None
    updates: int = 0


class Room:
    """What both front ends do with a message: text, or the cache of what may be a side note."""

    def __init__(self) -> None:
        self.text = self.cache = ""
        self.caching = False
        self.notes: list[str] = []

    def add(self, message: str, *, is_end: Callable[[str, str], bool]) -> None:
        """Take the next message; is_end: whether message and cache end a side note."""
        self.caching = self.caching or message.startswith("<")
        if not self.caching:
            self.text += message
            return
        self.cache += message
        if not (self.cache in BEGIN or BEGIN in self.cache):
            self.text += self.cache
        elif is_end(message, self.cache):
            self.notes.append(self.cache.replace(BEGIN, "").replace(END, "").strip())
        else:
            return
        self.cache, self.caching = "", False


def room_03(arrivals: Iterable[tuple[float, bytes]], lag: Callable[[], float]) -> Shown:
    """Read what arrives at these seconds as a room of 0.3.4 does.

    lag: how many seconds the reader takes for each window, besides reading.
    """
    data = [(at, byte) for at, part in arrivals for byte in part]
    room, now, position, left = Room(), 0.0, 0, b""
    while position < len(data):
        start, window = now, bytearray()
        while position < len(data) and now - start < WINDOW:
            now = max(now, data[position][0])
            window.append(data[position][1])
            position += 1
        now += lag()
        message = (left + window).decode("utf-8", "ignore")
        left = (left + window)[len(message.encode()) :]
        if message:
            room.add(message, is_end=lambda one, cache: one == ">" and cache.endswith(END))
    return Shown(BLOCK.sub("", room.text).strip(), room.notes)


def deltas(body: bytes) -> list[list[dict[str, Any]]]:
    """Return what the lines of a framed answer hold; every line must be one."""
    return [json.loads(line.removeprefix("data: "))["delta"] for line in body.decode().splitlines()]


def room_04(body: bytes) -> Shown:
    """Read a body as a room of 0.4 does."""
    room, exit_code, updates = Room(), None, 0
    for message, code in _messages(body):
        exit_code = exit_code if code is None else code
        if message:
            updates += 1
            room.add(message, is_end=lambda _, cache: cache.endswith(END))
    return Shown(room.text, room.notes, exit_code, updates)


def api_04(body: bytes) -> Shown:
    """Read a body as an API caller of 0.4 does, who gets side notes as they are."""
    messages = list(_messages(body))
    codes = [code for _, code in messages if code is not None]
    text = "".join(message for message, _ in messages)
    return Shown(text, [], codes[-1] if codes else None)


def _messages(body: bytes) -> Iterable[tuple[str, int | None]]:
    """Return text and exit code of each line; a line that is not framed is text."""
    for line in body.splitlines(keepends=True):
        if not line.startswith(b"data: "):
            yield line.decode(), None
            continue
        text, code = "", None
        for one in json.loads(line[len(b"data: ") :])["delta"]:
            if one["type"] == "text":
                text += one["text"]["value"]
            elif one["type"] == "log":
                text += f"\n[{one['log']['level']}] {one['log']['text']}"
            elif one["type"] == "exit_code":
                code = one["exit_code"]
        yield text, code
