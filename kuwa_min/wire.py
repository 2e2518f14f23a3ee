r"""The bytes of an answer: raw text for Kuwa 0.3, framed lines for Kuwa 0.4. No I/O here.

Facts that this module builds on:
- The front end decides how it wants an answer, and each Kernel passes everything on. Only 0.4's
  sends X-Kuwa-* headers; their values may be empty.
- 0.4: each line is `data: `, one JSON object and one newline. finish_reason is null but in the last
  line, which says "stop" or "exception", repeats the exit code and adds `usage`. The front end
  publishes the whole text so far at each line, so that text which is ready makes one line. A line
  that is no valid JSON is dropped in silence: a lone surrogate loses its line. A log is shown as
  "\n[LEVEL] text"; refusals, progress and addresses of pictures are not shown.
- 0.3.4 (rooms): the reader reads byte by byte in windows of 0.1 s. It waits for a byte without a
  limit, so that the first byte after a silence of more than a window still belongs to the window
  that waited for it; the next window starts there. A window that begins with `<` starts a cache,
  which is a note once a window is exactly `>` and the cache ends with the closing tag. Whatever
  the cache holds at the end is lost. So behind the text, each pause being longer than a window:
             "\n"                           where no text was sent, the first window begins with it
      pause  "\n" + all of the block but ">>"   the newline ends the text's window; the block waits
      pause  ">>", end of the body             the first ends the block's window, which begins with
                                               `<`; the second is the last window: a note
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple, Protocol

from .chunks import BaseChunk, ExitCodeChunk, LogChunk, LogLevel, RefusalChunk, TextChunk
from .errors import PieceError
from .side_notes import SideNoteGate

AUTO, RAW, FRAMED = "auto", "0.3", "0.4"  # the choices of --wire
SIGNS_OF_FRAMED = ("x-kuwa-api-base-urls", "x-kuwa-user-id", "x-kuwa-api-token")
WINDOW_PAUSE = 0.25  # seconds; a window of 0.3.4's reader lasts 0.1 s and may start late

LINE_START = b'data: {"finish_reason": null, "delta": ['
TEXT_START = LINE_START + b'{"type": "text", "text": {"value": '
TEXT_END = b', "annotations": []}}]}\n'
# Escapes as json.dumps writes them: a pair of surrogates, a lone one (kept apart), any other.
ESCAPES = re.compile(
    r"\\(?:ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|(ud[89a-f][0-9a-f]{2})|[^u]|u[0-9a-f]{4})"
)

STOP, EXCEPTION = "stop", "exception"


class Step(NamedTuple):
    """What ends an answer, in order: text may be joined to text before it, bytes stand alone."""

    data: str | bytes
    pause: float = 0.0  # seconds of silence before it


class Ending(NamedTuple):
    """How an answer ended."""

    exit_code: int = ExitCodeChunk.OK
    failure: str = ""  # the sentence about an unexpected failure
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Wire(Protocol):
    """Encode one answer. Its text must pass `gate`, then `encode`; `ending` comes last, once."""

    gate: SideNoteGate
    room: bool  # whether it goes to a chat room, not to an API client or a script

    def encode(self, text: str) -> bytes:
        """Encode text that is sent together; empty if nothing is to be sent for it."""

    def pieces(self, chunks: Sequence[BaseChunk]) -> list[str | bytes]:
        """Return what is sent for chunks that were yielded together; their text passes the gate."""

    def ending(self, end: Ending) -> list[Step]:
        """Return what is sent behind the last piece."""


def is_room(history_id: str | None) -> bool:
    """Tell a chat of a room, whose id is positive, from one of an API client or a script."""
    return bool(re.fullmatch(r"\s*0*[1-9][0-9]*\s*", history_id or ""))


def choose(option: str, fields: Container[str], *, room: bool) -> Wire:
    """Return the encoder for a request.

    option: AUTO, RAW or FRAMED. fields: the names of the request's headers, in lower case.
    """
    if option == AUTO:
        option = FRAMED if any(name in fields for name in SIGNS_OF_FRAMED) else RAW
    return FramedWire(room=room) if option == FRAMED else RawWire(room=room)


class RawWire:
    """The wire of Kuwa 0.3: the text of the answer as UTF-8."""

    def __init__(self, *, room: bool) -> None:
        self.gate = SideNoteGate()
        self.room = room

    def encode(self, text: str) -> bytes:
        """Encode text; surrogates are replaced."""
        return _utf8(text)

    def pieces(self, chunks: Sequence[BaseChunk]) -> list[str | bytes]:
        """Show what people can read as text; nothing stands for the other chunks."""
        text = self.gate.feed("".join(map(_as_text, chunks)))
        return [text] if text else []

    def ending(self, end: Ending) -> list[Step]:
        """Return the rest of the text, the failure, and the side notes."""
        self.gate.close()
        held = self.gate.release()
        if held and self.room:
            held += "\n"  # the reader, which trims it, may have begun a window with the held `<`
        steps = [Step(text) for text in (held, end.failure) if text]
        return steps + self._notes()

    def _notes(self) -> list[Step]:
        block = _utf8(self.gate.block())
        if not block:
            return []
        if not self.room:
            return [Step("\n"), Step(block)]
        return [
            Step("\n"),
            Step(b"\n" + block[:-2], WINDOW_PAUSE),
            Step(block[-2:], WINDOW_PAUSE),
        ]


class FramedWire:
    """The wire of Kuwa 0.4: lines of JSON."""

    def __init__(self, *, room: bool) -> None:
        self.gate = SideNoteGate()
        self.room = room

    def encode(self, text: str) -> bytes:
        """Make one line of text."""
        escaped = encode_basestring_ascii(text)
        return TEXT_START + _mended(escaped).encode("ascii") + TEXT_END

    def pieces(self, chunks: Sequence[BaseChunk]) -> list[str | bytes]:
        """Make one line of chunks; an empty list is a line, too: it resets the reader's timeout."""
        elements = [element for chunk in chunks for element in self._elements(chunk)]
        if chunks and not elements:
            return []  # all of their text is held
        return [LINE_START + ", ".join(map(_dumps, elements)).encode("ascii") + b"]}\n"]

    def _elements(self, chunk: BaseChunk) -> Iterable[dict[str, Any]]:
        if isinstance(chunk, TextChunk):
            yield from self._text(chunk.value, chunk.annotations)
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

    def ending(self, end: Ending) -> list[Step]:
        """Return the rest of the text, the side notes in a line, and the last line."""
        self.gate.close()
        steps = []
        if held := self.gate.release():
            alone = self.room and held.startswith("<")  # the text before it was sent already
            steps.append(Step(held + "\n" if alone else held))
        if block := self.gate.block():
            steps += [] if self.room else [Step("\n")]
            steps.append(Step(self.encode(block)))
        return [*steps, Step(_last_line(end))]


def _utf8(text: str) -> bytes:
    """Encode text; two halves of a pair are a character, a lone surrogate becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        pairs = text.encode("utf-16-le", "surrogatepass")
        return pairs.decode("utf-16-le", "replace").encode()


def _as_text(chunk: BaseChunk) -> str:
    """Return what 0.4's front end would show of a chunk; a refusal is shown as well."""
    if isinstance(chunk, TextChunk):
        return chunk.value
    if isinstance(chunk, RefusalChunk):
        return chunk.text
    return f"\n[{chunk.level}] {chunk.text}" if isinstance(chunk, LogChunk) else ""


def _last_line(end: Ending) -> bytes:
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
    return b"data: " + _dumps(line).encode("ascii") + b"\n"


def _dumps(value: object) -> str:
    """Encode JSON; raises ValueError for NaN and infinity, which no reader takes."""
    return _mended(json.dumps(value, allow_nan=False, default=_jsonencode))


def _jsonencode(value: Any) -> Any:
    """Encode what a chunk of a custom executor holds besides plain values."""
    if hasattr(value, "__jsonencode__"):
        return value.__jsonencode__()
    raise PieceError(f"a chunk holds {type(value).__name__}, for which JSON has nothing")


def _mended(escaped: str) -> str:
    """Replace lone surrogates in encoded JSON by U+FFFD; two halves of a pair are a character."""
    if "\\ud" not in escaped:
        return escaped
    return ESCAPES.sub(lambda found: "\\ufffd" if found[1] else found[0], escaped)
