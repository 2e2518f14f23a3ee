"""A generation request: the prompt and options that go to the engine, the text that comes back."""

from __future__ import annotations

import logging
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from kuwa_min.chat.sentence import Sentence
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.chat.thinking.answer_text import AnswerText, Splitter
from kuwa_min.chat.thinking.display import HIDE
from kuwa_min.errors import AnswerError

from .answers.logprobs import AnswerLogprobs, SampledToken
from .constraints.answer import ConstrainedAnswer
from .constraints.matcher import MaskPendingError
from .sentences import TIMED_OUT

logger = logging.getLogger(__name__)

# Seconds that a step waits for masks of constrained answers: most have come while it computed.
MASK_WAIT = 0.002
EMIT_INTERVAL = 0.01  # seconds between two pieces of text; the engine raises it under load


class Request:
    """One generation request, shared by the thread that reads the text and the engine's thread.

    prompt_ids: token ids of the prompt; options: the generation options; stop: stop strings;
    stop_token_ids: tokens that end the completion as an EOS token does; timeout: seconds that
    generating may take, counted from start(), None for no limit; adapters: a text that stands for
    the adapters (LoRA) that it is computed with, "" for none; model_inputs: what the model
    reads beside the token ids (pixel values), opaque here; splitter: tells thoughts from the
    answer; thinking: how they are shown; constrained: the masks of an answer that must match
    something, None for a free one; logprobs: alternatives that are wanted beside each token's log
    probability, None for neither.

    The reading thread calls next_text() and take_thought() until `drained`. Any thread may call
    cancel(). All other methods belong to the engine's thread, in this order: start(), then emit(),
    emit_hidden(), flush() and add_side_note() any number of times while should_stop is false, then
    finish() once.
    """

    def __init__(
        self,
        prompt_ids: list[int],
        options: dict[str, Any],
        *,
        stop: Sequence[str] = (),
        stop_token_ids: Collection[int] = (),
        timeout: float | None = None,
        adapters: str = "",
        model_inputs: Any = None,
        splitter: Splitter | None = None,
        thinking: str = HIDE,
        constrained: ConstrainedAnswer | None = None,
        logprobs: int | None = None,
    ) -> None:
        self.prompt_ids, self.options, self.model_inputs = prompt_ids, options, model_inputs
        self.adapters = adapters
        self.cached_tokens = 0  # of the prompt, found in the KV cache
        self.completion_tokens = 0  # sampled so far, counted by the scheduler
        self.emit_interval = EMIT_INTERVAL
        self.started = self.cancelled = self.finished = False
        self.drained = False  # next_text() has returned all text
        self.on_cancel: Callable[[], None] | None = None  # called by cancel(), in its thread
        self.side_notes: list[str] = []  # on the answer, shown after it once it is drained
        self.prompt_note = ""  # on what the prompt lacks, shown after those
        self.stop_token_ids, self.constrained = frozenset(stop_token_ids), constrained
        self.logprobs = None if logprobs is None else AnswerLogprobs(logprobs)
        self._text, self._timeout = AnswerText(splitter, thinking, stop), timeout
        self._deadline = float("inf")
        self._queue: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self._buffer, self._flushed_at = "", 0.0
        self._error: BaseException | None = None
        self.failure: BaseException | None = None  # but AnswerError: the device may be lost
        self.is_cut = False  # by a limit of length or time
        self._thoughts: deque[str] = deque()  # shown apart; not taken yet

    # -- the reading thread

    def next_text(self, timeout: float | None = None) -> str:
        """Wait for text and return all that is queued; raise the error that ended generation.

        Returns "" at the end, where `drained` is set, and after `timeout` seconds.
        """
        if self._error is not None:
            self.drained = True
            raise self._error
        try:
            item = self._queue.get(timeout=timeout)
        except queue.Empty:
            return ""
        text = ""
        while isinstance(item, str):
            text += item
            if self.logprobs is not None:
                self.logprobs.take_piece()
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return text
        self._error = item
        if item is not None and not text:
            return self.next_text()
        self.drained = item is None
        return text

    def take_thought(self) -> str:
        """Return what has come of thoughts that are shown apart."""
        taken = ""
        while self._thoughts:
            taken += self._thoughts.popleft()
        return taken

    def cancel(self) -> None:
        """Cancel: the engine skips this request at its next step; next_text() returns at once."""
        self.cancelled = True
        self._queue.put(None)
        if self.on_cancel is not None:
            self.on_cancel()

    @property
    def finish_reason(self) -> str:
        """Return why the completion, which has ended, did so, in the words of /v1."""
        return "length" if self.is_cut and not self._text.hit else "stop"

    @property
    def is_only_thought(self) -> bool:
        """Tell whether the completion, which has ended, is a thought without an answer."""
        return self._text.is_only_thought

    # -- any thread

    @property
    def is_thinking(self) -> bool:
        """Tell whether the completion is within a thought."""
        return self._text.is_thinking

    # -- the engine's thread

    @property
    def closing(self) -> str:
        """Return the text that ends the thought that is open; "" if that is unknown."""
        return self._text.closing

    def allowed_tokens(self, deadline: float = math.inf) -> bytearray | None:
        """Return the tokens that may come next, a bit each; None: all of them.

        Call it before each token of a constrained request. deadline: of time.monotonic(). Raises
        AnswerError, and MaskPendingError if they are not known by the deadline.
        """
        if self.constrained is None:
            return None
        return self.constrained.allowed(is_thinking=self.is_thinking, deadline=deadline)

    def is_held(self, deadline: float) -> bool:
        """Tell whether the tokens that may come next are not known by the deadline."""
        try:
            self.allowed_tokens(deadline)
        except MaskPendingError:
            return True
        except AnswerError:
            return False  # it is raised again when the token is sampled
        return False

    @property
    def timed_out(self) -> bool:
        """Tell whether the timeout has passed."""
        return time.monotonic() > self._deadline

    @property
    def should_stop(self) -> bool:
        """Tell whether to stop generating: a stop string, the timeout, or cancel()."""
        return self.cancelled or self._text.hit or self.timed_out

    def start(self) -> None:
        """Start the timeout."""
        self.started = True
        if self._timeout:
            self._deadline = time.monotonic() + self._timeout

    def emit(self, text: str, sampled: SampledToken | None = None) -> None:
        """Append text, up to the first stop string; hand it over every `emit_interval` seconds.

        sampled: the token that completes it, if log probabilities are wanted; none of a thought's.
        """
        if self.logprobs is not None and sampled is not None:
            self.logprobs.add(sampled, text)
        self._show(self._text.feed(text))
        now = time.monotonic()
        waits = self._buffer or self._text.has_thought_apart
        if waits and now - self._flushed_at >= self.emit_interval:
            self._flushed_at = now
            self.flush()

    def emit_hidden(self, markup: str) -> None:
        """Append the markup of a special token, which may begin a thought or be in a stop string.

        It is not shown.
        """
        self._show(self._text.feed(markup, hidden=True))

    def _show(self, text: str) -> None:
        """Append text to what is handed over next."""
        self._buffer += text
        if self.logprobs is not None:
            self.logprobs.follow(text, is_thinking=self._text.is_thinking)

    def flush(self) -> None:
        """Hand over the buffered text now, before a step that may take long."""
        thought = self._text.take_thought()
        if thought:
            self._thoughts.append(thought)
        if thought or self._buffer:
            if self.logprobs is not None:
                self.logprobs.hand_over()
            self._queue.put(self._buffer)
            self._buffer = ""

    def add_side_note(self, sentence: Sentence) -> None:
        """Add a side note on the answer, unless a stop string or cancel() has ended it."""
        if not (self.cancelled or self._text.hit):
            self.side_notes.append(SIDE_NOTE.format(sentence))

    def finish(self, error: BaseException | None = None) -> None:
        """End the text, with `error` for next_text() to raise; later calls do nothing."""
        if self.finished:
            return
        self.finished = True
        self.failure = None if isinstance(error, AnswerError) else error
        if not self._text.hit:
            self._show(self._text.finish())
        if self.timed_out and self._timeout and error is None:
            self.is_cut = True
            self.add_side_note(TIMED_OUT.format(f"{self._timeout:g}"))
        if self.constrained is not None:
            self._end_constraint(self.constrained, is_broken=self.cancelled or error is not None)
        self.flush()
        self._queue.put(error)

    def _end_constraint(self, constrained: ConstrainedAnswer, *, is_broken: bool) -> None:
        """Log if the answer ended before it matched; is_broken: by a cancel or an error."""
        if not (is_broken or constrained.is_complete(time.monotonic() + MASK_WAIT)):
            logger.warning(
                "an answer ended after %d tokens, before it was known to match what it must",
                self.completion_tokens,
            )
        constrained.close()
