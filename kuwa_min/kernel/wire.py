"""Encode an answer for the Kernel: raw text for Kuwa 0.3, lines of JSON for Kuwa 0.4. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple, Protocol

from kuwa_min.chat.chunks import (
    BaseChunk,
    ExitCodeChunk,
    LogChunk,
    LogLevel,
    RefusalChunk,
    TextChunk,
    ThoughtChunk,
)
from kuwa_min.chat.sentence import ENGLISH, Language, innermost, render
from kuwa_min.chat.side_notes import SideNoteGate
from kuwa_min.errors import PieceError

AUTO, RAW, FRAMED = "auto", "0.3", "0.4"  # the choices of --wire
FRAMED_HEADERS = ("x-kuwa-api-base-urls", "x-kuwa-user-id", "x-kuwa-api-token")
THOUGHTS_HEADER = "x-kuwa-thoughts"  # sent by our chat page and terminal chat, see PureTextEncoder
WINDOW_PAUSE = 0.25  # seconds; a window of 0.3.4's front end lasts 0.1 s and may start late

LINE_START = b'data: {"finish_reason": null, "delta": ['
TEXT_START = LINE_START + b'{"type": "text", "text": {"value": '
TEXT_END = b', "annotations": []}}]}\n'
# Escapes as json.dumps writes them: a pair of surrogates, a lone one (kept apart), any other.
ESCAPES = re.compile(
    r"\\(?:ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|(ud[89a-f][0-9a-f]{2})|[^u]|u[0-9a-f]{4})"
)

STOP, EXCEPTION = "stop", "exception"  # of finish_reason

# What each front end expects
#
# The front end decides how it wants an answer, and each Kernel passes everything on. Only 0.4's
# front end sends X-Kuwa-* headers; their values may be empty.
#
# 0.4: each line is `data: `, one JSON object and one newline. finish_reason is null but in the last
# line, which says "stop" or "exception", repeats the exit code and adds `usage`.
# - The front end publishes the whole text so far at each line, so that coalesced text makes one
#   line. An empty `delta` is a ping, which resets the timeout of the client.
# - A line that is no valid JSON is dropped without an error: a lone surrogate loses its line.
# - A log is shown as "\n[LEVEL] text"; refusals, progress and addresses of pictures are not shown.
#
# 0.3: the body is the text in UTF-8. 0.3.4 extracts side notes from it in chat rooms: it reads byte
# by byte in windows of 0.1 s. It waits for a byte without a limit, so that the first byte after a
# silence of more than a window still belongs to the window that waited for it; the next window
# starts there. A window that begins with `<` starts a cache, which is a note once a window is
# exactly `>` and the cache ends with the closing tag. What the cache holds at the end is lost. So
# behind the text, each pause being longer than a window:
#            "\n"                           if no text was sent, the first window begins with it
#     pause  "\n" + the block without ">>"  the newline ends the text's window; the block waits
#     pause  ">>", end of the body          the first ends the block's window, which begins with
#                                           `<`; the second is the last window: a note


Put = Callable[["str | bytes"], bool]  # sends what is written; returns whether more may be


class TimedWrite(NamedTuple):
    """One write at the end of an answer: text may be joined to text before it, bytes may not."""

    data: str | bytes
    pause: float = 0.0  # seconds of silence before it


class AnswerEnd(NamedTuple):
    """How an answer ended.

    declined, has_begun: for encoders with errors_apart only.
    """

    exit_code: int = ExitCodeChunk.OK
    failure: str = ""  # the sentence about an unexpected failure
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt
    finish_reason: str = STOP  # or length, tool_calls
    declined: str = ""  # the sentence in place of the rest of the answer
    has_begun: bool = True  # something may have been sent already


class AnswerEncoder(Protocol):
    """The encoder of one answer; no method blocks.

    The thread that runs the backend passes text through `gate` and hands it to the connection,
    which calls `encode_text` when it sends, on any thread, with all text that is ready. Chunks are
    encoded by `encode_chunks`, which uses the gate itself. The thread that ends the answer calls
    `encode_end`, once, after everything else.
    """

    gate: SideNoteGate
    pings_arrive: bool  # progress and pings reach the client, which waits as long as they come
    chat_room: bool  # whether it is shown in a chat room; if not, an API client or a script gets it
    errors_apart: bool  # sentences of ours are no text: they come with encode_end
    thoughts_apart: bool  # the client takes ThoughtChunk

    def wrap(self, put: Put) -> Put:
        """Return what takes the answer's text and frames in place of the connection's `put`."""

    def encode_text(self, text: str) -> bytes:
        """Encode text that is sent together; empty bytes: send nothing."""

    def encode_chunks(self, chunks: Sequence[BaseChunk]) -> list[str | bytes]:
        """Return what to send for chunks that were yielded together: bytes, or text to encode."""

    def encode_end(self, end: AnswerEnd) -> list[TimedWrite]:
        """Return the writes that follow the last piece."""


def is_chat_room(history_id: str | None) -> bool:
    """Tell whether a history_id is of a chat room: positive, unlike those of API calls."""
    return bool(re.fullmatch(r"\s*0*[1-9][0-9]*\s*", history_id or ""))


def choose_encoder(
    option: str, headers: Container[str], *, chat_room: bool, language: Language = ENGLISH
) -> AnswerEncoder:
    """Return a new encoder for the answer to a request.

    option: AUTO, RAW or FRAMED. headers: the names of the request's headers, in lower case.
    language: of our sentences, where they are not part of the answer's text.
    """
    if option == AUTO:
        option = FRAMED if any(name in headers for name in FRAMED_HEADERS) else RAW
    if option == RAW:
        return RawEncoder(chat_room=chat_room)
    if THOUGHTS_HEADER in headers:
        return PureTextEncoder(chat_room=chat_room, language=language)
    return FramedEncoder(chat_room=chat_room)


class RawEncoder:
    """The encoder for Kuwa 0.3: the text of the answer in UTF-8."""

    pings_arrive = errors_apart = thoughts_apart = False

    def __init__(self, *, chat_room: bool) -> None:
        self.gate = SideNoteGate()
        self.chat_room = chat_room

    def wrap(self, put: Put) -> Put:
        """Return it as it is."""
        return put

    def encode_text(self, text: str) -> bytes:
        """Encode text; surrogates are replaced."""
        return _utf8(text)

    def encode_chunks(self, chunks: Sequence[BaseChunk]) -> list[str | bytes]:
        """Turn text, logs and refusals into text; the other chunks are dropped."""
        text = self.gate.feed("".join(map(_as_text, chunks)))
        return [text] if text else []

    def encode_end(self, end: AnswerEnd) -> list[TimedWrite]:
        """Return the rest of the text, the failure, and the side notes."""
        self.gate.close()
        held = self.gate.release()
        if held and self.chat_room:
            held += "\n"  # the front end, which trims it, may have begun a window with the held `<`
        steps = [TimedWrite(text) for text in (held, end.failure) if text]
        return steps + self._notes()

    def _notes(self) -> list[TimedWrite]:
        block = _utf8(self.gate.block())
        if not block:
            return []
        if not self.chat_room:
            return [TimedWrite("\n"), TimedWrite(block)]
        return [
            TimedWrite("\n"),
            TimedWrite(b"\n" + block[:-2], WINDOW_PAUSE),
            TimedWrite(block[-2:], WINDOW_PAUSE),
        ]


class FramedEncoder:
    """The encoder for Kuwa 0.4: lines of JSON."""

    errors_apart = thoughts_apart = False

    def __init__(self, *, chat_room: bool) -> None:
        self.gate = SideNoteGate()
        self.chat_room = self.pings_arrive = chat_room  # clients of the API get text only

    def wrap(self, put: Put) -> Put:
        """Return it as it is."""
        return put

    def encode_text(self, text: str) -> bytes:
        """Make one line of text."""
        escaped = encode_basestring_ascii(text)
        return TEXT_START + without_lone_surrogates(escaped).encode("ascii") + TEXT_END

    def encode_chunks(self, chunks: Sequence[BaseChunk]) -> list[str | bytes]:
        """Make one line of chunks; of none, a ping, which resets the client's read timeout."""
        elements = [element for chunk in chunks for element in self._elements(chunk)]
        if chunks and not elements:
            return []  # the gate holds all of their text
        return [LINE_START + ", ".join(map(dumps, elements)).encode("ascii") + b"]}\n"]

    def _elements(self, chunk: BaseChunk) -> Iterable[dict[str, Any]]:
        if isinstance(chunk, TextChunk):
            yield from self._text(chunk.value, chunk.annotations)
            return
        if isinstance(chunk, ThoughtChunk) and not self.thoughts_apart:
            return
        if isinstance(chunk, LogChunk) and (held := self.gate.release()):
            yield TextChunk(held).__jsonencode__()
        yield chunk.__jsonencode__()
        if isinstance(chunk, RefusalChunk):
            yield from self._text(chunk.text)

    def _text(self, text: str, annotations: list[Any] | None = None) -> Iterable[dict[str, Any]]:
        passed = self.gate.feed(text)
        if passed or not text:
            yield TextChunk(passed, annotations).__jsonencode__()

    def encode_end(self, end: AnswerEnd) -> list[TimedWrite]:
        """Return the rest of the text, the side notes in a line, and the last line."""
        self.gate.close()
        steps = []
        if held := self.gate.release():
            alone = self.chat_room and held.startswith("<")  # the text before it has been sent
            steps.append(TimedWrite(held + "\n" if alone else held))
        if block := self.gate.block():
            steps += [] if self.chat_room else [TimedWrite("\n")]
            steps.append(TimedWrite(self.encode_text(block)))
        return [*steps, TimedWrite(_last_line(end))]


class PureTextEncoder(FramedEncoder):
    """The encoder for our own clients: text is the model's only; thoughts and errors are chunks."""

    errors_apart = thoughts_apart = True

    def __init__(self, *, chat_room: bool, language: Language = ENGLISH) -> None:
        super().__init__(chat_room=chat_room)
        self._language: Language = language

    def encode_end(self, end: AnswerEnd) -> list[TimedWrite]:
        """Return the end of a framed answer, with the sentence in place of the rest as an error."""
        steps = super().encode_end(end)
        if end.declined:
            error = LogChunk(render(innermost(end.declined), self._language), LogLevel.ERROR)
            steps[-1:-1] = [TimedWrite(data) for data in self.encode_chunks([error])]
        return steps


def _utf8(text: str) -> bytes:
    """Encode text; two halves of a pair are a character, a lone surrogate becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        pairs = text.encode("utf-16-le", "surrogatepass")
        return pairs.decode("utf-16-le", "replace").encode()


def _as_text(chunk: BaseChunk) -> str:
    """Return a chunk as 0.4's front end shows it; a refusal, which it does not show, as text."""
    if isinstance(chunk, TextChunk):
        return chunk.value
    if isinstance(chunk, RefusalChunk):
        return chunk.text
    return f"\n[{chunk.level}] {chunk.text}" if isinstance(chunk, LogChunk) else ""


def _last_line(end: AnswerEnd) -> bytes:
    delta: list[BaseChunk] = [LogChunk(end.failure, LogLevel.ERROR)] if end.failure else []
    line = {
        "finish_reason": EXCEPTION if end.failure else STOP,
        "delta": [chunk.__jsonencode__() for chunk in (*delta, ExitCodeChunk(end.exit_code))],
        "usage": {
            "prompt_tokens": end.prompt_tokens,
            "completion_tokens": end.completion_tokens,
            "total_tokens": end.prompt_tokens + end.completion_tokens,
        },
    }
    return b"data: " + dumps(line).encode("ascii") + b"\n"


def dumps(value: object) -> str:
    """Encode JSON; raises ValueError for NaN and infinity, which are not JSON."""
    return without_lone_surrogates(json.dumps(value, allow_nan=False, default=_jsonencode))


def _jsonencode(value: Any) -> Any:
    """Encode an object in a chunk of a custom executor; raises PieceError if JSON has none."""
    if hasattr(value, "__jsonencode__"):
        return value.__jsonencode__()
    raise PieceError(f"a chunk holds {type(value).__name__}, for which JSON has nothing")


def without_lone_surrogates(escaped: str) -> str:
    """Replace lone surrogates in encoded JSON by U+FFFD; two halves of a pair are a character."""
    if "\\ud" not in escaped:
        return escaped
    return ESCAPES.sub(lambda found: "\\ufffd" if found[1] else found[0], escaped)
