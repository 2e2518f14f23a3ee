"""Split answers by the response template that came with a tokenizer, with transformers' parser."""

from __future__ import annotations

import logging
from typing import Any

from transformers.utils.chat_parsing import ResponseParser
from transformers.utils.chat_parsing.response_templates import load_response_template

from kuwa_min.chat.thinking.splitter import ANSWER, MARKUP, THOUGHT, Part
from kuwa_min.errors import describe

logger = logging.getLogger(__name__)

CONTENT = "content"  # the field of the answer; thoughts and calls of tools are in others


# Facts (transformers 5.24, utils/chat_parsing):
# - the parser reads the prompt's end, too, behind the last "start_anchor"; without one, all of it;
# - it wants the text with the special tokens, and leaves out those that the template names;
# - at the end of a call of a tool, and at the end of all, it raises what JSON parsers raise.


class ResponseSplitter:
    """Splits one answer, as ThoughtSplitter does.

    template: what load_template() returned; prompt_end: the end of the prompt as text.
    """

    passes_all = False

    def __init__(self, template: Any, prompt_end: str) -> None:
        has_anchor = template.start_anchor_re.search(prompt_end) is not None
        self._template = template
        self._parser: Any = ResponseParser(template, prefix=prompt_end if has_anchor else "")
        self._field = CONTENT  # that is open
        self._has_thought = self._has_answer = False
        self._parts(self._parser.initial_events)
        self._has_answer = False  # what the prompt begins with is none

    @property
    def is_thinking(self) -> bool:
        """Tell whether a thought is open."""
        return self._field != CONTENT

    @property
    def closing(self) -> str:
        """Return the text that ends the thought that is open; "" if that is unknown."""
        if not self.is_thinking:
            return ""
        return next(iter(self._template.fields[self._field].close_literals or ()), "")

    def feed(self, text: str, *, hidden: bool = False) -> list[Part]:
        """Return what the text makes clear; hidden: it is the markup of a special token."""
        if hidden and not self._names(text):
            return [(MARKUP, text)]
        if self._parser is None:
            return [(ANSWER, text)]
        try:
            parts = self._parts(self._parser.feed(text))
        except Exception as error:  # noqa: BLE001 - whatever the model's text makes it raise
            return self._give_up(error)
        return [*parts, (MARKUP, text)] if hidden and not self.is_thinking else parts

    def finish(self) -> list[Part]:
        """Return what was held until the end."""
        if self._parser is None:
            return []
        try:
            return self._parts(self._parser.finalize()[1])
        except Exception as error:  # noqa: BLE001 - as above
            return self._give_up(error)

    def _give_up(self, error: Exception) -> list[Part]:
        """Take all that follows for the answer."""
        logger.debug("an answer does not follow its response template: %s", describe(error))
        self._parser, self._field = None, CONTENT
        return []

    def _parts(self, events: list[dict[str, Any]]) -> list[Part]:
        parts: list[Part] = []
        for event in events:
            if event["type"] == "region_open":
                self._field = event["field"]
                self._has_thought = self._has_thought or self.is_thinking
            elif event["type"] == "region_close":
                self._field = CONTENT
            elif event["field"] != CONTENT:
                parts.append((THOUGHT, event["text"]))
            elif text := self._answer(event["text"]):
                parts.append((ANSWER, text))
        return parts

    def _answer(self, text: str) -> str:
        """Return text of the answer, without the white space behind a thought."""
        if self._has_thought and not self._has_answer:
            text = text.lstrip()
        self._has_answer = self._has_answer or bool(text)
        return text

    def _names(self, token: str) -> bool:
        """Tell whether the template names a special token."""
        return any(
            pattern is not None and token in pattern.pattern.replace("\\", "")
            for field in self._template.fields.values()
            for pattern in (field.open_re, field.close_re)
        )


def load_template(tokenizer: Any) -> Any:
    """Return the response template of a tokenizer for ResponseSplitter; None if it has none."""
    template = getattr(tokenizer, "response_template", None)
    if not template:
        return None
    try:
        return load_response_template(template)
    except Exception as error:  # noqa: BLE001 - it came with the model
        logger.warning("the tokenizer's response template cannot be used: %s", error)
        return None
