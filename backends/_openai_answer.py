"""Make text of the JSON objects in which services of OpenAI's kind send an answer. No I/O.

Facts about those objects:
- The text stands in choices[0].delta.content; a service that does not stream says message instead.
- `choices` may be empty or absent: the last object then holds the usage, others nothing of use.
- Thinking stands in reasoning_content (vLLM, SGLang, llama-server, DeepSeek) or reasoning (Ollama,
  OpenRouter, newer vLLM), beside or before the text.
- {"error": ...} may come instead of any object, after a status of 200.
"""

from __future__ import annotations

import json
from typing import Any

from kuwa_min import sentences
from kuwa_min.prompt import NOTE_BEGIN, NOTE_END, SIDE_NOTE

DONE = b"[DONE]"
REASONING = ("reasoning_content", "reasoning")
ENDINGS = {  # finish_reason -> side note
    "length": sentences.CUT_BY_LENGTH,
    "content_filter": sentences.CUT_BY_RULES,
    "tool_calls": sentences.WANTS_A_TOOL,
    "function_call": sentences.WANTS_A_TOOL,
}
GOOD_ENDINGS = ("stop", "eos", "eos_token", "stop_sequence", "end_turn")
LONGEST_REASON = 40  # characters of a service's own name for an end
LONGEST_THOUGHT = 2000  # characters of one side note


class Answer:
    """What is known of one answer so far."""

    def __init__(self, *, show_reasoning: bool = False) -> None:
        self._thoughts = Thoughts() if show_reasoning else None
        self._half = ""  # of a character that came as two escapes in two objects
        self.finish_reason: str | None = None
        self.error: Any = None
        self.done = False
        self.seen = self.understood = 0  # events; those of this kind
        self.read = self.written = 0  # tokens, where the service says so

    @property
    def ended(self) -> bool:
        """Tell whether the service said that this is all."""
        return self.done or self.finish_reason is not None

    def feed(self, event: bytes) -> str:
        """Return the text that an event adds; raises ValueError if it is no JSON object."""
        self.seen += 1
        if event.strip() == DONE:
            self.done = True
            return ""
        try:
            found = json.loads(str(event, "utf-8", "replace"))
        except RecursionError:
            raise ValueError("JSON that is nested too deeply") from None
        if not isinstance(found, dict):
            raise ValueError("JSON that is no object")
        return self._take(found)

    def _take(self, found: dict[str, Any]) -> str:
        if found.get("error"):
            self.error = found["error"]
            return ""
        usage = found.get("usage")
        if isinstance(usage, dict):
            self._count(usage)
        choices = found.get("choices")
        if not isinstance(choices, list):
            return ""
        self.understood += 1
        texts = [self._choose(one) for one in choices if isinstance(one, dict)]
        return self._whole("".join(texts))

    def _count(self, usage: dict[str, Any]) -> None:
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        self.read = read if isinstance(read, int) else self.read
        self.written = written if isinstance(written, int) else self.written

    def _choose(self, choice: dict[str, Any]) -> str:
        """Return the text of a choice, if it is the first of them."""
        if choice.get("index"):
            return ""
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
        part = choice.get("delta") or choice.get("message")
        if not isinstance(part, dict):
            text = choice.get("text")
            return text if isinstance(text, str) else ""
        text = part.get("content") or part.get("refusal")
        text = text if isinstance(text, str) else ""
        return self._thought(part, text) + text if self._thoughts else text

    def _thought(self, part: dict[str, Any], text: str) -> str:
        assert self._thoughts is not None
        thought = next((part[name] for name in REASONING if part.get(name)), "")
        shown = self._thoughts.feed(thought) if isinstance(thought, str) and thought else ""
        return shown + self._thoughts.finish() if text else shown

    def _whole(self, text: str) -> str:
        """Return text without half characters: the first half waits for the second."""
        if text.isascii() and not self._half:
            return text
        text = self._half + text
        held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        self._half = held
        whole = text[: len(text) - len(held)]
        return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def finish(self) -> str:
        """Return what was held back until the end."""
        thought = self._thoughts.finish() if self._thoughts else ""
        half, self._half = self._half, ""
        return thought + ("\ufffd" if half else "")

    def ending(self) -> str:
        """Return the side note about the answer's end; empty if it ended well."""
        if not self.ended:
            return sentences.BROKEN_OFF
        if self.finish_reason is None or self.finish_reason in GOOD_ENDINGS:
            return ""
        reason = "".join(filter(str.isprintable, self.finish_reason))[:LONGEST_REASON]
        return ENDINGS.get(self.finish_reason) or sentences.ENDED_ODDLY.format(reason)


class Thoughts:
    """Make side notes of what a model thinks: one for each paragraph, so that each is whole."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, text: str) -> str:
        """Return side notes of the paragraphs that this text completes."""
        self._text += text
        paragraphs, gap, self._text = self._text.rpartition("\n\n")
        if not gap and len(self._text) > LONGEST_THOUGHT:
            paragraphs, self._text = self._text, ""
        return _note(paragraphs)

    def finish(self) -> str:
        """Return a side note of the rest."""
        text, self._text = self._text, ""
        return _note(text)


def _note(thought: str) -> str:
    for mark in (NOTE_BEGIN, NOTE_END):
        thought = thought.replace(mark, "")
    return SIDE_NOTE.format(thought.strip()) if thought.strip() else ""
