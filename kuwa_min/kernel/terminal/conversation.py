"""A conversation: its messages, its system prompt, the last turn again, a file of it."""

from __future__ import annotations

import json
import os

from kuwa_min.chat.modelfile import Message
from kuwa_min.errors import UsageError

from .sentences import FILE_EXISTS, NOT_WRITTEN
from .visible_text import visible

TITLES = {"system": "System", "user": "You", "assistant": "Answer"}


class Conversation:
    """The messages so far.

    A turn begins with `ask` and ends with `add_answer`; a question that has no answer is no part
    of what follows, but `again` still returns it.
    """

    def __init__(self, system: str = "") -> None:
        self.system = system
        self.messages: list[Message] = []
        self._before: list[Message] = []  # without the last turn
        self._question = ""

    def ask(self, question: str) -> list[Message]:
        """Begin a turn; return the messages to send."""
        self._before, self._question = self.messages, question
        return [*self.messages, {"role": "user", "content": question}]

    def add_answer(self, text: str) -> None:
        """End the turn with an answer, or the part of one that has come."""
        turn: list[Message] = [
            {"role": "user", "content": self._question},
            {"role": "assistant", "content": text},
        ]
        self.messages = self._before + turn

    def again(self) -> str:
        """Take the last turn back; return its question, "" if there is none."""
        self.messages = self._before
        return self._question

    def save(self, path: str) -> None:
        """Write it to a new file that others cannot read; JSON if it ends in .json, or Markdown.

        Raises UsageError.
        """
        text = self._to_json() if path.endswith(".json") else self._to_markdown()
        try:
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except FileExistsError:
            raise UsageError(FILE_EXISTS.format(path)) from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its name is no path"
            raise UsageError(NOT_WRITTEN.format(path, reason)) from None

    def _all(self) -> list[Message]:
        first: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return first + self.messages

    def _to_json(self) -> str:
        return json.dumps({"messages": self._all()}, ensure_ascii=False, indent=2) + "\n"

    def _to_markdown(self) -> str:
        parts = (f"## {TITLES[one['role']]}\n\n{one['content']}\n" for one in self._all())
        return visible("\n".join(parts))  # it will be read in a terminal again
