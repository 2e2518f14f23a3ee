"""What both versions of the web front end Multi-Chat have in common: requests, and what is seen."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol
from urllib.parse import urlencode, urlsplit

# Short sentences of our own where the real front end has its own ones.
EMPTY_ANSWER = "[the answer was empty]"
BROKEN = "[something broke]"
NO_EXECUTOR = "[no executor]"
THINKING = "* ...thinking... *"  # what a history record says until its answer is saved
OPEN_TAG, END_TAG = "<<<WARNING>>>", "<<</WARNING>>>"
PHP_SPACE = " \t\n\r\0\x0b"
TIMEOUT = 300.0  # seconds without a byte after which the front end gives up
READ_SIZE = 1 << 16


@dataclass
class Seen:
    """What a room or an API caller gets of one answer."""

    updates: list[tuple[float, str]] = field(default_factory=list)  # seconds, published text
    saved: str = THINKING  # what the history keeps, notes included
    notes: list[str] = field(default_factory=list)
    exit_code: Any = None
    ended: bool = False  # whether the waiting page or caller is released
    busy: bool = False  # the Kernel had no free endpoint

    @property
    def texts(self) -> list[str]:
        """Return the published texts without their times."""
        return [text for _, text in self.updates]

    @property
    def text(self) -> str:
        """Return the saved answer without its notes."""
        return re.sub(f"{OPEN_TAG}.*?{END_TAG}", "", self.saved, flags=re.DOTALL)


class Reader(Protocol):
    """What reads the body of one answer; times are seconds of any one clock."""

    seen: Seen

    def feed(self, data: bytes, at: float) -> None:
        """Take a block as it arrives; empty: a read that returned nothing."""

    def end(self, at: float) -> None:
        """Take the end of the body."""


def replay(reader: Reader, *blocks: tuple[float, bytes]) -> Seen:
    """Feed blocks with their arrival times; the body ends with the last one."""
    for at, data in blocks:
        reader.feed(data, at)
    reader.end(blocks[-1][0] if blocks else 0.0)
    return reader.seen


def valid_prefix(data: bytes) -> int:
    """Return the length of the longest prefix that is valid UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(data)


def notes_block(notes: list[str]) -> str:
    """Return the block that the front end appends for the side notes it collected."""
    return OPEN_TAG + "\n".join(notes) + END_TAG if notes else ""


def note_of(block: str) -> str:
    """Return the note inside the blocks that were buffered."""
    return block.replace(OPEN_TAG, "").replace(END_TAG, "").strip(PHP_SPACE)


def php_json(value: Any) -> str:
    """Encode as PHP's json_encode does: ASCII, no spaces, slashes escaped."""
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/")


def sent_modelfile(commands: list[dict[str, str]], *dropped: str) -> str:
    """Return the form field of a bot's Modelfile: comments gone, outer quotes of args trimmed."""
    kept = [one for one in commands if one["name"] and one["name"][0] != "#"]
    return php_json(
        [
            {**one, "args": one["args"].strip('"') if one["args"][:1] == '"' else one["args"]}
            for one in kept
            if one["name"] not in dropped
        ]
    )


def sent_history(history: list[dict[str, Any]]) -> str:
    """Return the form field of a history: the bot's messages lose notes, and null becomes ""."""
    messages = []
    for one in history:
        message = one["msg"]
        if one["isbot"]:
            message = re.sub(f"{OPEN_TAG}.*?{END_TAG}", "", message or "", flags=re.DOTALL)
        messages.append({**one, "msg": message})
    return php_json(messages)


class FrontEnd:
    """Multi-Chat as the Kernel sees it: schedules, posts the chat, reads the answer.

    Versions differ in `headers`, `tokens`, `reader`; see multi_chat_03 and multi_chat_04.
    host: the Host of the requests where it is not the Kernel's real address, such as kernel:9000.
    """

    tokens: ClassVar[dict[str, str]] = {}
    dropped_commands: tuple[str, ...] = ()
    reader: Callable[..., Reader]

    def __init__(self, kernel: str, name: str, *, user_id: int = 3, host: str = "") -> None:
        self.kernel, self.name, self.user_id = kernel.rstrip("/"), name, user_id
        self.host = host or urlsplit(self.kernel).netloc
        self.language = "zh_tw"

    def headers(self) -> dict[str, str]:
        """Return the headers of a chat that only this version sends."""
        return {}

    def schedule(self, history_id: int) -> str:
        """Ask for an endpoint; return the Kernel's word."""
        form = {"name": self.name, "history_id": str(history_id), "user_id": str(self.user_id)}
        with self._post("/v1.0/worker/schedule", form, {}) as response:
            return response.read().decode().strip()

    def form(self, history: list[dict[str, Any]], history_id: int) -> dict[str, str]:
        """Return the form of a chat, in the order in which the front end sends it."""
        ids = {"name": self.name, "user_id": str(self.user_id), "history_id": str(history_id)}
        return {"input": sent_history(history), **ids, **self.tokens}

    def chat(
        self,
        history: list[dict[str, Any]],
        history_id: int = 7,
        *,
        modelfile: list[dict[str, str]] | None = None,
        on_update: Callable[[Seen], None] = lambda _: None,
    ) -> Seen:
        """Have one chat, in a room if history_id > 0, else as an API caller."""
        word = self.schedule(history_id)
        if word != "READY":
            return self._not_ready(word, history_id)
        form = self.form(history, history_id)
        if modelfile is not None:
            form["modelfile"] = sent_modelfile(modelfile, *self.dropped_commands)
        fields = {"Accept-Language": self.language, **self.headers()}
        with self._post("/v1.0/chat/completions", form, fields) as response:
            return self._read(response, history_id, on_update)

    def _not_ready(self, word: str, _history_id: int) -> Seen:
        if word == "BUSY":
            return Seen(busy=True)
        return Seen([(0.0, NO_EXECUTOR)], NO_EXECUTOR, ended=True)

    def _read(
        self,
        response: http.client.HTTPResponse,
        history_id: int,
        on_update: Callable[[Seen], None],
    ) -> Seen:
        started = time.monotonic()
        reader = self.reader(room=history_id > 0)
        known = 0
        while data := response.read1(READ_SIZE):
            reader.feed(data, time.monotonic() - started)
            if len(reader.seen.updates) > known:
                known = len(reader.seen.updates)
                on_update(reader.seen)
        reader.end(time.monotonic() - started)
        return reader.seen

    def abort(self, *history_ids: int) -> None:
        """Press the stop button of these rooms."""
        form = {"history_id": json.dumps(list(history_ids)), "user_id": str(self.user_id)}
        with self._post("/v1.0/chat/abort", form, {}) as response:
            response.read()

    @contextmanager
    def _post(
        self, path: str, form: dict[str, str], fields: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        address = urlsplit(self.kernel)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        body = urlencode(form).encode()
        headers = {
            "Host": self.host,
            "User-Agent": "GuzzleHttp/7",
            "Content-Type": "application/x-www-form-urlencoded",
            **fields,
        }
        connection.putrequest("POST", path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Connection", "close")
        connection.endheaders(body)
        with closing(connection), connection.getresponse() as response:
            yield response


class Room:
    """A chat room: keeps the history as its database gives it back.

    user, bot: the values of `isbot`: SQLite and MySQL give 0 and 1, PostgreSQL false and true, and
    null and "" occur, too.
    """

    def __init__(
        self, front_end: FrontEnd, history_id: int = 7, *, user: Any = 0, bot: Any = 1
    ) -> None:
        self.front_end, self.history_id, self.user, self.bot = front_end, history_id, user, bot
        self.history: list[dict[str, Any]] = []

    def say(self, text: str, **more: Any) -> Seen:
        """Send a message and keep the answer as the page shows it next time."""
        self.history.append({"msg": text, "isbot": self.user})
        seen = self.front_end.chat(self.history, self.history_id, **more)
        self.history.append({"msg": seen.saved, "isbot": self.bot})
        return seen
