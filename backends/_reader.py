"""Turn chats into what a model reads: by its template, or by one that came with the request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from kuwa_min.modelfile import Message
from kuwa_min.prompt import fold_system

from ._chat_template import RefusedTemplate

PROBE = "kuwa-system-probe"


class Template(Protocol):
    """What writes a chat down."""

    def render(self, chat: list[Message], /, **more: Any) -> str:
        """Return the chat as text; raises RefusedTemplate if the template refuses it."""


class Prompt(NamedTuple):
    """A chat as a model reads it: its tokens, and what else goes with them."""

    ids: list[int]
    extra: Any = None


class Reader(Protocol):
    """What measures and prepares the chats of one request."""

    def length(self, chat: list[Message]) -> int:
        """Return how many tokens a chat has; raises RefusedTemplate if it is refused."""

    def prepare(self, chat: list[Message]) -> Prompt:
        """Return the chat as a Prompt; raises RefusedTemplate if it is refused."""


class ChatInput(NamedTuple):
    """What reads the chats of a request, its history as that wants it, and what was left out.

    notes: sentences for a side note.
    """

    reader: Reader
    history: list[Message]
    notes: tuple[str, ...] = ()


class TextReader:
    """Reads chats of text alone."""

    def __init__(self, template: Template, tokenize: Callable[[str], list[int]]) -> None:
        self._template, self._tokenize = template, tokenize
        self._last: tuple[list[Message], list[int]] | None = None

    def length(self, chat: list[Message]) -> int:
        """Return how many tokens a chat has; raises RefusedTemplate if it is refused."""
        return len(self._tokens(chat))

    def prepare(self, chat: list[Message]) -> Prompt:
        """Return the chat as a Prompt; raises RefusedTemplate if it is refused."""
        return Prompt(self._tokens(chat))

    def _tokens(self, chat: list[Message]) -> list[int]:
        """Return the tokens of a chat, which are often asked for twice in a row."""
        if self._last is None or self._last[0] != chat:
            text = self._template.render(chat).encode("utf-8", "replace").decode()
            self._last = chat, self._tokenize(text)  # a template may make half characters
        return self._last[1]


class FoldingReader:
    """Reads chats whose template takes no system prompt: it goes into the first message."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def length(self, chat: list[Message]) -> int:
        """Return how many tokens a chat has; raises RefusedTemplate if it is refused."""
        return self._reader.length(fold_system(chat))

    def prepare(self, chat: list[Message]) -> Prompt:
        """Return the chat as a Prompt; raises RefusedTemplate if it is refused."""
        return self._reader.prepare(fold_system(chat))


def takes_system(reader: Reader) -> bool:
    """Tell whether the template shows a system prompt, instead of refusing or ignoring it.

    Raises RefusedTemplate if it accepts no chat at all.
    """
    user = {"role": "user", "content": "?"}
    plain = reader.length([user])
    try:
        both = reader.length([{"role": "system", "content": PROBE}, user])
    except RefusedTemplate:
        return False
    return both > plain
