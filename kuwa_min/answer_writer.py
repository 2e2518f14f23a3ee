"""Write the pieces of one answer: count them, part side notes from text, encode, hand over.

`Answer` owns one. The backend's thread, or the event loop, calls `write`; whichever thread ends the
answer calls `ending`, once. Nothing here waits for the reader.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .chunks import BaseChunk, ExitCodeChunk, LogChunk, RefusalChunk, TextChunk
from .delivery import Delivery
from .errors import PieceError
from .usage import Usage
from .wire import Ending, Step, Wire

HEARTBEAT_SECONDS = 10.0  # between two heartbeats while a chat waits or its text is held back


class AnswerWriter:
    """The pieces of one answer on their way to a connection.

    on_first: called before the first text. listen: gets what is written, for a log with content.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        on_first: Callable[[], object],
        listen: Callable[[str], None] | None = None,
    ) -> None:
        self._wire, self._on_first, self._listen = wire, on_first, listen
        self._feed = wire.gate.feed
        self._put: Callable[[str | bytes], bool] = lambda data: True
        self._held_since: float | None = None  # time.monotonic() since which the gate holds text
        self.characters = self._extra_cost = 0  # of texts; of chunks beyond their text
        self.is_blank = True  # nothing but white space can be seen of it
        self.exit_code = ExitCodeChunk.OK

    def open(self, delivery: Delivery) -> None:
        """Write to this connection from now on."""
        delivery.encode = self._wire.encode
        self._put = delivery.put

    def write(self, piece: Any) -> bool:
        """Send what a backend yielded; return whether there is room for more.

        Text alone may be sent together with its neighbours. Raises Gone without a reader,
        PieceError for what is no piece of an answer.
        """
        if not isinstance(piece, str):
            return self._write_chunks(piece)
        if self.is_blank or self._listen is not None:
            self._notice(piece)
        self.characters += len(piece)
        passed = self._feed(piece)
        if passed or not piece:
            self._held_since = None
            return self._put(passed)
        return self._hold()

    def write_sentence(self, sentence: str) -> None:
        """Send a sentence of ours behind what the model said."""
        self._wire.gate.close()
        self._put(self._feed(sentence))

    def _write_chunks(self, piece: Any) -> bool:
        if type(piece) is TextChunk and isinstance(piece.value, str) and not piece.annotations:
            self._extra_cost += len(piece) - len(piece.value)
            return self.write(piece.value)
        chunks = [_chunk(one) for one in (piece if isinstance(piece, list) else [piece])]
        for chunk in chunks:
            self._count(chunk)
        return self._send(chunks)

    def _send(self, chunks: list[BaseChunk]) -> bool:
        """Send chunks; none is a heartbeat on 0.4's wire, and nothing on 0.3's."""
        has_room = True
        for data in self._wire.pieces(chunks):
            has_room = self._put(data)
        return has_room

    def _hold(self) -> bool:
        """Send a heartbeat now and then while a side note grows, which is sent at the end only."""
        now = time.monotonic()
        self._held_since = self._held_since or now
        if now - self._held_since < HEARTBEAT_SECONDS:
            return True
        self._held_since = now
        return self._send([])

    def _count(self, chunk: BaseChunk) -> None:
        """Keep what is counted, logged and remembered of a chunk."""
        self._extra_cost += len(chunk)
        if isinstance(chunk, TextChunk):
            self._notice(chunk.value)
            self.characters += len(chunk.value)
            self._extra_cost -= len(chunk.value)
        elif self._listen is not None:
            self._listen(repr(chunk.__jsonencode__()))
        if isinstance(chunk, LogChunk | RefusalChunk):
            self.is_blank = False
        if isinstance(chunk, ExitCodeChunk):
            self.exit_code = int(chunk.exit_code)

    def _notice(self, text: str) -> None:
        if text and not self.characters:
            self._on_first()
        self.is_blank = self.is_blank and not text.strip()
        if text and self._listen is not None:
            self._listen(text)

    def ending(self, *, failure: str = "", note: str = "", usage: Usage) -> list[Step]:
        """Return what comes behind the last piece.

        failure: the sentence about an unexpected failure; note: one more side note; usage: the
        tokens of the chat, where the backend counted them, else characters are told.
        """
        self._wire.gate.add(note)
        read, written = usage.prompt_tokens, usage.completion_tokens
        if not usage.counted:
            written = self.characters + self._extra_cost
        return self._wire.ending(Ending(self.exit_code, failure, read, written))


def _chunk(piece: Any) -> BaseChunk:
    """Return what was yielded as a chunk; raises PieceError for what is no piece of an answer."""
    if isinstance(piece, str):
        return TextChunk(piece)
    if not isinstance(piece, BaseChunk):
        raise PieceError(f"llm_compute yielded {type(piece).__name__} instead of str or a chunk")
    text = _text_of(piece)
    if not isinstance(text, str):
        kind = type(piece).__name__
        raise PieceError(f"llm_compute yielded a {kind} of {type(text).__name__} instead of str")
    return piece


def _text_of(chunk: BaseChunk) -> Any:
    if isinstance(chunk, TextChunk):
        return chunk.value
    return chunk.text if isinstance(chunk, RefusalChunk) else ""
