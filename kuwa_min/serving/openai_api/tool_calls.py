"""Tell the calls of functions in a model's text from the rest of it, as it comes. No I/O.

Facts about models that are offered functions:
- Hermes, Qwen and most others write <tool_call>{"name": ..., "arguments": {...}}</tool_call>, one
  after the other, also behind some text; the last closing tag may be missing.
- Llama 3 writes the object alone, with "parameters", as its whole answer; Mistral a list of them,
  behind a special token that is not shown.
"""

from __future__ import annotations

import json
import os
from typing import Any

from kuwa_min.chat import bounded_json
from kuwa_min.chat.text import overlap

from .tools import CLOSE, OPEN

ARGUMENTS = ("arguments", "parameters")
Call = dict[str, Any]  # as in tool_calls
Part = str | Call


class ToolCallSplitter:
    """Splits one answer: feed() its text in any pieces, then finish().

    names: of the functions. What looks like a call of none of them is text.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names, self._held = names, ""
        self._pieces: list[str] = []  # behind what is held, read at its end
        self._is_open = self._is_json = self._has_begun = False
        self._tail = ""  # of what was read
        self.count = 0  # of calls

    def feed(self, text: str) -> list[Part]:
        """Return what the text makes clear; what may be a call is held until its end."""
        self._pieces.append(text)
        parts: list[Part] = []
        if self._is_json or (self._is_open and not self._is_closed_by(text)):
            return parts
        self._join()
        while self._step(parts):
            pass
        self._tail = self._held[-len(CLOSE) :]
        return parts

    def _is_closed_by(self, text: str) -> bool:
        """Tell whether a closing tag ends in a text; so a long call is not read at each piece."""
        self._tail += text
        found = CLOSE in self._tail
        self._tail = self._tail[-len(CLOSE) :]
        return found

    def _join(self) -> None:
        self._held, self._pieces = "".join([self._held, *self._pieces]), []

    def _step(self, parts: list[Part]) -> bool:
        """Take a part of what is held; return whether another one may follow."""
        if self._is_open:
            inside, closed, rest = self._held.partition(CLOSE)
            if closed:
                self._close(parts, inside, OPEN + inside + CLOSE)
                self._held = rest
            return bool(closed)
        if not self._has_begun and self._held.lstrip()[:1] in ("", "{", "["):
            self._is_json = bool(self._held.strip())
            return False  # it may be nothing but calls
        before, opened, rest = self._held.partition(OPEN)
        kept = 0 if opened else overlap(before, (OPEN,))
        self._pass(parts, before[: len(before) - kept])
        self._held, self._is_open = rest if opened else before[len(before) - kept :], bool(opened)
        return bool(opened)

    def finish(self) -> list[Part]:
        """Return what was held until the end."""
        parts: list[Part] = []
        self._join()
        held, self._held = self._held, ""
        if self._is_open or not self._has_begun:
            self._close(parts, held, OPEN + held if self._is_open else held)
        else:
            self._pass(parts, held)
        return parts

    def _pass(self, parts: list[Part], text: str) -> None:
        """Pass on text, but for white space between calls."""
        self._has_begun = self._has_begun or bool(text.strip())
        if text and not (self.count and text.isspace()):
            parts.append(text)

    def _close(self, parts: list[Part], inside: str, text: str) -> None:
        """Add the calls in a text, or the text if they are none."""
        self._is_open, self._has_begun = False, True
        calls = self._calls(inside)
        if not calls:
            self._pass(parts, text)
        for name, arguments in calls:
            parts.append(self._call(name, arguments))

    def _calls(self, text: str) -> list[tuple[str, str]]:
        """Return names and arguments of the calls in a text, none if there is anything else."""
        try:
            found = bounded_json.loads(text.strip() or "[]")
            calls = [self._named(one) for one in (found if isinstance(found, list) else [found])]
        except (ValueError, RecursionError):
            return []
        return [one for one in calls if one is not None] if all(calls) else []

    def _named(self, found: Any) -> tuple[str, str] | None:
        name = found.get("name") if isinstance(found, dict) else None
        if not isinstance(name, str) or name not in self._names:
            return None
        arguments: Any = next((found[one] for one in ARGUMENTS if one in found), {})
        if isinstance(arguments, str):
            return name, arguments
        return name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)

    def _call(self, name: str, arguments: str) -> Call:
        self.count += 1
        return {
            "index": self.count - 1,
            "id": f"call_{os.urandom(12).hex()}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
