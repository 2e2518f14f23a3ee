"""Parse the chat completion chunks of services that speak OpenAI's protocol. No I/O.

Facts about these objects:
- The text stands in choices[0].delta.content; a service that does not stream says message instead.
- `choices` may be empty or absent: the last object then holds the usage, others nothing of use.
- Reasoning stands in reasoning_content (vLLM, SGLang, llama-server, DeepSeek) or reasoning (Ollama,
  OpenRouter, newer vLLM), beside or before the text.
- {"error": ...} may come instead of any object, after a status of 200.
"""

from __future__ import annotations

import json
from typing import Any

from backends._cloud.sentences import (
    BROKEN_OFF,
    CUT_BY_LENGTH,
    CUT_BY_RULES,
    ENDED_ODDLY,
    WANTS_A_TOOL,
)
from kuwa_min.chat.side_notes import NOTE_BEGIN, NOTE_END, SIDE_NOTE

DONE = b"[DONE]"
REASONING = ("reasoning_content", "reasoning")
FINISH_NOTES = {  # finish_reason -> side note
    "length": CUT_BY_LENGTH,
    "content_filter": CUT_BY_RULES,
    "tool_calls": WANTS_A_TOOL,
    "function_call": WANTS_A_TOOL,
}
NORMAL_FINISH = ("stop", "eos", "eos_token", "stop_sequence", "end_turn")
LONGEST_REASON = 40  # characters of a finish_reason that we do not know
LONGEST_PARAGRAPH = 2000  # characters of reasoning in one side note


class CompletionParser:
    """Parse one answer: feed() its events, then finish(), then ask for the finish_note()."""

    def __init__(self, *, show_reasoning: bool = False) -> None:
        self._reasoning = ReasoningNotes() if show_reasoning else None
        self._high_surrogate = ""  # of a character that comes as two escapes in two chunks
        self.finish_reason: str | None = None
        self.error: Any = None  # the object that came in place of a chunk
        self.done = False  # [DONE] came
        self.events = self.chunks = 0  # all that came, and those that are completion chunks
        self.prompt_tokens = self.completion_tokens = 0  # where the service tells

    @property
    def ended(self) -> bool:
        """Tell whether the service said that the answer is whole."""
        return self.done or self.finish_reason is not None

    def feed(self, event: bytes) -> str:
        """Return the text that an event adds; raises ValueError if it is no JSON object."""
        self.events += 1
        if event.strip() == DONE:
            self.done = True
            return ""
        try:
            chunk = json.loads(str(event, "utf-8", "replace"))
        except RecursionError:
            raise ValueError("JSON that is nested too deeply") from None
        if not isinstance(chunk, dict):
            raise ValueError("JSON that is no object")
        return self._feed_chunk(chunk)

    def _feed_chunk(self, chunk: dict[str, Any]) -> str:
        if chunk.get("error"):
            self.error = chunk["error"]
            return ""
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._feed_usage(usage)
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return ""
        self.chunks += 1
        texts = [self._feed_choice(one) for one in choices if isinstance(one, dict)]
        return self._join_surrogates("".join(texts))

    def _feed_usage(self, usage: dict[str, Any]) -> None:
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        self.prompt_tokens = prompt if isinstance(prompt, int) else self.prompt_tokens
        self.completion_tokens = (
            completion if isinstance(completion, int) else self.completion_tokens
        )

    def _feed_choice(self, choice: dict[str, Any]) -> str:
        """Return the text of a choice if it is the first: others are not shown."""
        if choice.get("index"):
            return ""
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, dict):
            text = choice.get("text")
            return text if isinstance(text, str) else ""
        text = delta.get("content") or delta.get("refusal")
        text = text if isinstance(text, str) else ""
        return _reasoning_notes(self._reasoning, delta, text) + text if self._reasoning else text

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
        notes = self._reasoning.finish() if self._reasoning else ""
        held, self._high_surrogate = self._high_surrogate, ""
        return notes + ("\ufffd" if held else "")

    def finish_note(self) -> str:
        """Return the side note on how the answer ended; empty if it ended normally."""
        if not self.ended:
            return BROKEN_OFF
        if self.finish_reason is None or self.finish_reason in NORMAL_FINISH:
            return ""
        reason = "".join(filter(str.isprintable, self.finish_reason))[:LONGEST_REASON]
        return FINISH_NOTES.get(self.finish_reason) or ENDED_ODDLY.format(reason)


class ReasoningNotes:
    """Write a model's reasoning as side notes, one a paragraph: a stop then leaves none open."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, text: str) -> str:
        """Return side notes of the paragraphs that this text completes."""
        self._text += text
        paragraphs, gap, self._text = self._text.rpartition("\n\n")
        if not gap and len(self._text) > LONGEST_PARAGRAPH:
            paragraphs, self._text = self._text, ""
        return _side_note(paragraphs)

    def finish(self) -> str:
        """Return a side note of the rest."""
        text, self._text = self._text, ""
        return _side_note(text)


def _reasoning_notes(notes: ReasoningNotes, delta: dict[str, Any], text: str) -> str:
    """Return the side notes that a delta completes; its text, if it has any, ends the reasoning."""
    reasoning = next((delta[name] for name in REASONING if delta.get(name)), "")
    shown = notes.feed(reasoning) if isinstance(reasoning, str) and reasoning else ""
    return shown + notes.finish() if text else shown


def _side_note(reasoning: str) -> str:
    for mark in (NOTE_BEGIN, NOTE_END):
        reasoning = reasoning.replace(mark, "")
    return SIDE_NOTE.format(reasoning.strip()) if reasoning.strip() else ""
