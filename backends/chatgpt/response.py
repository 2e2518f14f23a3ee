"""Parse the chat completion chunks of services that speak OpenAI's protocol. No I/O.

Facts about these objects:
- The text stands in choices[0].delta.content; a service that does not stream says message instead,
  older ones text. Some send the whole answer as message beside its pieces, or at the end.
- Ollama's own objects have no choices: {"message": {...}, "done": false}, or response for message;
  Cloudflare's are {"response": "..."}.
- `choices` may be empty or absent: the last object then holds the usage, others nothing of use.
- Reasoning stands in reasoning_content (vLLM, SGLang, llama-server, DeepSeek) or reasoning (Ollama,
  OpenRouter, newer vLLM), beside or before the text, or in a part of the content (Mistral).
- An error may come instead of any object, after a status of 200: {"error": ...}, {"object":
  "error", ...} (older vLLM), {"text": ..., "error_code": ...} (FastChat), or in a choice
  (OpenRouter).
"""

from __future__ import annotations

from typing import Any

from backends._cloud.content import Piece, pieces
from backends._cloud.json_reader import Event
from backends._cloud.not_understood import describe, note, short
from backends._cloud.request import AnswerUsage
from backends._cloud.sentences import (
    BROKEN_OFF,
    CUT_BY_LENGTH,
    CUT_BY_RULES,
    ENDED_ODDLY,
    WANTS_A_TOOL,
)
from kuwa_min.chat.thinking.answer_text import AnswerText
from kuwa_min.chat.thinking.display import HIDE
from kuwa_min.chat.thinking.formats import WRAPPERS, Format, Wrappers
from kuwa_min.chat.thinking.history import headless
from kuwa_min.chat.thinking.splitter import ThoughtSplitter

SOURCES = ("delta", "message", "text", "response")  # fields of a choice that may hold its text
REASONING = ("reasoning_content", "reasoning", "thinking")
FINISH_NOTES = {  # finish_reason -> side note
    "length": CUT_BY_LENGTH,
    "max_tokens": CUT_BY_LENGTH,
    "model_length": CUT_BY_LENGTH,
    "content_filter": CUT_BY_RULES,
    "safety": CUT_BY_RULES,
    "tool_calls": WANTS_A_TOOL,
    "function_call": WANTS_A_TOOL,
}
NORMAL_FINISH = ("stop", "eos", "eos_token", "stop_sequence", "end_turn")


class CompletionParser:
    """Parse one answer: feed() its events, then finish(), then ask for the finish_note()."""

    def __init__(
        self,
        thinking: str = HIDE,
        *,
        headless: Format | None = None,
        wrappers: Wrappers = WRAPPERS,
    ) -> None:
        """Begin an answer.

        headless: how its model's last one marked a thought at its beginning; wrappers: tags around
        the answer that are markup.
        """
        self._text = AnswerText(ThoughtSplitter(guess=headless, wrappers=wrappers), thinking)
        self._headless, self._said = headless, list[str]()
        self._high_surrogate = ""  # of a character that comes as two escapes in two chunks
        self._index: object = None  # of the choice that is shown
        self._source = ""  # the field of SOURCES that brings its text
        self.finish_reason: str | None = None
        self.error: Any = None  # what came in place of a chunk
        self.done = False  # [DONE] came
        self.pieces = 0  # of text and thoughts; about as many as tokens
        self.events = self.chunks = 0  # all that came, and those that are completion chunks
        # as the service reports them; 0 until then
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0
        self.not_understood: list[str] = []  # kinds of what came, for the log; none of its words

    @property
    def usage(self) -> AnswerUsage:
        """Return the usage that the service has reported so far."""
        is_cut = FINISH_NOTES.get((self.finish_reason or "").lower()) is CUT_BY_LENGTH
        return AnswerUsage(self.prompt_tokens, self.completion_tokens, self.cached_tokens, is_cut)

    def take_thought(self) -> str:
        """Return the thoughts that have come since the last call, if they are shown apart."""
        return self._text.take_thought()

    @property
    def ended(self) -> bool:
        """Tell whether the service said that the answer is whole."""
        return self.done or self.finish_reason is not None

    def feed(self, event: Event) -> str:
        """Return the text that an event adds; raises ValueError if a part of it is lost."""
        self.events += 1
        if event.name == "error" and not event.is_done:
            self.error = event.data or "the service sent an event named error"
        elif isinstance(event.data, dict):
            return self._feed_object(event.data, event)
        elif event.is_done:
            self.done = True
        elif event.is_damaged:
            raise ValueError("an event of the answer is no JSON")
        else:
            note(self.not_understood, describe(event))
        return ""

    def _feed_object(self, found: dict[str, Any], event: Event) -> str:
        usage = found.get("usage")
        if isinstance(usage, dict):
            self._feed_usage(usage)
        choices = _choices(found)
        if _is_error(found):
            self.error = found
        elif choices is None and not usage and (kind := describe(event)):
            note(self.not_understood, kind)
        if choices is None:
            return ""
        self.chunks += 1
        text = ""
        for one in choices:
            if self._is_shown(one, choices):
                text += self._feed_choice(one)
        return self._join_surrogates(text)

    def _feed_usage(self, usage: dict[str, Any]) -> None:
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        self.prompt_tokens = prompt if isinstance(prompt, int) else self.prompt_tokens
        self.completion_tokens = (
            completion if isinstance(completion, int) else self.completion_tokens
        )
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        self.cached_tokens = cached if isinstance(cached, int) else self.cached_tokens

    def _is_shown(self, choice: Any, choices: list[Any]) -> bool:
        """Tell whether a choice belongs to the answer that is shown: the first that came."""
        if not isinstance(choice, dict):
            return False
        if self._index is None:
            self._index = min(_index(one) for one in choices if isinstance(one, dict))
        return _index(choice) == self._index

    def _feed_choice(self, choice: dict[str, Any]) -> str:
        reason = choice.get("finish_reason") or choice.get("done_reason")
        if isinstance(reason, str) or choice.get("done") is True:
            self.finish_reason = reason if isinstance(reason, str) else "stop"
        if choice.get("error"):
            self.error = choice
        text = ""
        for source in SOURCES:
            message = choice.get(source)
            if message and self._source in ("", source):  # in another one it is there twice
                text += self._feed_message(source, message)
        return text

    def _feed_message(self, source: str, message: Any) -> str:
        text = ""
        for piece in _pieces(message if isinstance(message, dict) else {"content": message}):
            if piece.text:
                self._source = source
                text += self._show(piece)
            elif piece.unknown:
                note(self.not_understood, short(piece.unknown))
        return text

    def _show(self, piece: Piece) -> str:
        """Return a text without the thoughts in it, and of thoughts what is to be shown."""
        self.pieces += 1
        if piece.is_reasoning:
            return self._text.think(piece.text)
        self._said.append(piece.text)
        return self._text.feed(piece.text)

    def _join_surrogates(self, text: str) -> str:
        """Return whole characters only: a high surrogate waits for the low one."""
        if text.isascii() and not self._high_surrogate:
            return text
        text = self._high_surrogate + text
        held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        self._high_surrogate = held
        whole = text[: len(text) - len(held)]
        return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def finish(self) -> str:
        """Return what was held back until the end."""
        text = self._join_surrogates(self._text.finish())
        held, self._high_surrogate = self._high_surrogate, ""
        return text + ("\ufffd" if held else "")

    @property
    def is_thinking(self) -> bool:
        """Tell whether a thought is open."""
        return self._text.is_thinking

    @property
    def is_only_thought(self) -> bool:
        """Tell whether there was a thought and no answer."""
        return self._text.is_only_thought

    @property
    def headless(self) -> Format | None:
        """Return, after the end, how the answer marked a thought that no tag of it opened."""
        said = "".join(self._said)
        return headless(said) if said else self._headless

    def finish_note(self) -> str:
        """Return the side note on how the answer ended; empty if it ended normally."""
        if not self.ended:
            return BROKEN_OFF
        reason = (self.finish_reason or "").lower()
        if not reason or reason in NORMAL_FINISH:
            return ""
        return FINISH_NOTES.get(reason) or ENDED_ODDLY.format(short(self.finish_reason))


def _choices(found: dict[str, Any]) -> list[Any] | None:
    """Return the choices of an object, of which one may stand alone; None: it has none."""
    choices = found.get("choices")
    if isinstance(choices, dict):
        return [choices]
    if isinstance(choices, list):
        return choices
    is_one = isinstance(found.get("done"), bool) or isinstance(found.get("response"), str)
    return [found] if is_one else None


def _pieces(message: dict[str, Any]) -> list[Piece]:
    """Return the texts of a message, its reasoning first."""
    content = message.get("content")
    found = pieces(message.get("text") if content is None else content)
    if message.get("refusal"):
        found = [*found, *pieces(message["refusal"])]
    for name in REASONING:
        if message.get(name):
            before = (one._replace(is_reasoning=True) for one in pieces(message[name]))
            return [*before, *found]
    return found


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index")
    if isinstance(index, int):
        return index
    return int(index) if str(index).isdecimal() else 0


def _is_error(found: dict[str, Any]) -> bool:
    """Tell whether an object is an error, or has one."""
    if found.get("error") or found.get("error_code") or found.get("errors"):
        return True
    if "error" in (found.get("object"), found.get("type")):
        return True
    return "choices" not in found and bool(found.get("detail") or _has_code_and_message(found))


def _has_code_and_message(found: dict[str, Any]) -> bool:
    return isinstance(found.get("message"), str) and bool(found.get("code") or found.get("status"))
