"""Write the pieces of one generation: check, count, gate side notes, encode, hand to the body.

`write` is called where the generator runs, on the event loop or on the HTTP worker thread;
`final_writes` once, by the thread that ends the body. Nothing here waits for the client.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kuwa_min.chat.catalog import is_whole_answer
from kuwa_min.chat.chunks import BaseChunk, ExitCodeChunk, LogChunk, RefusalChunk, TextChunk
from kuwa_min.chat.sentence import ENGLISH, Language, render
from kuwa_min.errors import PieceError
from kuwa_min.httpd.body_writer import BodyWriter
from kuwa_min.kernel.wire import AnswerEncoder, AnswerEnd, TimedWrite
from kuwa_min.serving.usage import Usage

# Seconds without a byte after which a client that gets no progress gets a newline, before the
# answer's first word: 0.3's front end gives up after 300, clients of 0.4's API after 120.
QUIET = 60.0
PING_INTERVAL = 10.0  # seconds between pings while a chat waits for a slot or its text is held back


class PieceWriter:
    """The pieces of one generation on their way to a response's body.

    on_first: called before the first text. log_content: gets what is written, for a log that may
    hold content. language: in which sentences of ours are sent.
    """

    def __init__(
        self,
        encoder: AnswerEncoder,
        *,
        on_first: Callable[[], object],
        log_content: Callable[[str], None] | None = None,
        language: Language = ENGLISH,
    ) -> None:
        self._encoder, self._on_first, self._log_content = encoder, on_first, log_content
        self._language = language
        self._feed = encoder.gate.feed
        self._put: Callable[[str | bytes], bool] = lambda data: True
        self._quiet_since = time.monotonic()
        self._held_since: float | None = None  # time.monotonic() since which the gate holds text
        self.characters = self._extra_cost = 0  # of texts; of chunks beyond their text
        self.is_blank = True  # only white space is visible so far
        self.exit_code = ExitCodeChunk.OK
        self._declined = ""
        self._has_sent_chunks = False

    def open(self, body: BodyWriter) -> None:
        """Write to this body from now on."""
        body.encode = self._encoder.encode_text
        self._put = self._encoder.wrap(body.write_nowait)

    def write(self, piece: Any) -> bool:
        """Send a piece that a backend yielded; return whether more may be written now.

        Text alone may be coalesced with its neighbours. Raises ClientDisconnected without a client,
        PieceError for anything but text, a chunk or a list of them.
        """
        if type(piece) is not str:
            if not isinstance(piece, str):
                return self._write_chunks(piece)
            if self._encoder.errors_apart and is_whole_answer(piece):
                return self._note(piece)
            piece = render(piece, self._language)
        if self.is_blank or self._log_content is not None:
            self._observe(piece)
        self.characters += len(piece)
        passed = self._feed(piece)
        if passed or not piece:
            self._held_since = None
            return self._put(passed)
        return self._ping_while_held()

    def write_sentence(self, sentence: str) -> None:
        """Send a sentence of ours behind the model's text, outside any side note."""
        if self._encoder.errors_apart:
            self._declined = sentence
            return
        self._encoder.gate.close()
        self._put(self._feed(render(sentence, self._language)))

    def _note(self, sentence: str) -> bool:
        """Add a sentence of ours that is no text of the model as a side note."""
        self._encoder.gate.add(render(sentence, self._language))
        return True

    def _write_chunks(self, piece: Any) -> bool:
        if type(piece) is TextChunk and isinstance(piece.value, str) and not piece.annotations:
            self._extra_cost += len(piece) - len(piece.value)
            return self.write(piece.value)
        chunks = [_as_chunk(one) for one in (piece if isinstance(piece, list) else [piece])]
        for chunk in chunks:
            self._count(chunk)
        return self._send(chunks)

    def _send(self, chunks: list[BaseChunk]) -> bool:
        """Send chunks; an empty list is a ping on 0.4's wire, and nothing on 0.3's."""
        writable = True
        if not self._encoder.pings_arrive and self.is_blank:
            self._break_silence()
        for data in self._encoder.encode_chunks(chunks):
            self._has_sent_chunks = True
            writable = self._put(data)
        return writable

    def _break_silence(self) -> None:
        """Send a newline to a client that gets nothing of chunks and pings."""
        now = time.monotonic()
        if now - self._quiet_since >= QUIET:
            self._quiet_since = now
            self._put("\n")

    def _ping_while_held(self) -> bool:
        """Send a ping per PING_INTERVAL while a side note grows, which is sent at the end only."""
        now = time.monotonic()
        self._held_since = self._held_since or now
        if now - self._held_since < PING_INTERVAL:
            return True
        self._held_since = now
        return self._send([])

    def _count(self, chunk: BaseChunk) -> None:
        """Add a chunk to the counts, the log and the exit code."""
        self._extra_cost += len(chunk)
        if isinstance(chunk, TextChunk):
            self._observe(chunk.value)
            self.characters += len(chunk.value)
            self._extra_cost -= len(chunk.value)
        elif self._log_content is not None:
            self._log_content(repr(chunk.__jsonencode__()))
        if isinstance(chunk, LogChunk | RefusalChunk):
            self.is_blank = False
        if isinstance(chunk, ExitCodeChunk):
            self.exit_code = int(chunk.exit_code)

    def _observe(self, text: str) -> None:
        if text and not self.characters:
            self._on_first()
        self.is_blank = self.is_blank and not text.strip()
        if text and self._log_content is not None:
            self._log_content(text)

    def final_writes(self, *, failure: str = "", note: str = "", usage: Usage) -> list[TimedWrite]:
        """Return the writes that follow the last piece.

        failure: the sentence about an unexpected failure; note: one more side note; usage: the
        token counts of the chat; a backend that counted none is charged its characters.
        """
        if note and self._encoder.errors_apart:
            self._declined = self._declined or note
        else:
            self._encoder.gate.add(render(note, self._language))
        completion_tokens = usage.completion_tokens
        if not usage.counted:
            completion_tokens = self.characters + self._extra_cost
        end = AnswerEnd(
            self.exit_code,
            failure,
            usage.prompt_tokens,
            completion_tokens,
            usage.cached_tokens,
            usage.finish_reason,
            self._declined,
            has_begun=self._has_sent_chunks or self.characters > 0,
        )
        return self._encoder.encode_end(end)


def _as_chunk(piece: Any) -> BaseChunk:
    """Return a piece as a chunk; raises PieceError for other types."""
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
