"""From a chat to token ids: control tokens are the template's, all else is ordinary text."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Protocol

from kuwa_min.chat.modelfile import Message

from .bounds import is_enough
from .control_tokens import ControlTokens
from .rendering import ChatRenderer, RenderedChat, Template


class Tokenizer(Protocol):
    """A model's tokenizer; called from any thread."""

    control_tokens: ControlTokens

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, control tokens included, as the library has it."""

    def tokenize_ordinary(self, text: str, *, is_first: bool) -> list[int]:
        """Return the token ids of a text without control tokens, whatever it looks like.

        is_first: the prompt begins with it; else it stands behind a control token.
        """

    def token_texts(self) -> Iterable[str] | None:
        """Return the texts of all tokens for SplitPoints; None if texts are not divisible."""


class PromptTokenizer:
    """Tokenizes the chats of a model; any thread may call it.

    trusted_roles: of messages whose control tokens count as the template's.
    """

    def __init__(self, tokenizer: Tokenizer, trusted_roles: Collection[str] = ()) -> None:
        self._tokenizer, self._control_tokens = tokenizer, tokenizer.control_tokens
        self._renderer = ChatRenderer(tokenizer.control_tokens, trusted_roles)

    def encode(self, template: Template, chat: list[Message]) -> list[int]:
        """Return the token ids of a chat as a template writes it; raises TemplateError."""
        rendered = self._renderer.render(template, chat)
        if rendered.is_plain:
            ids = self._tokenizer.tokenize(rendered.text)
            if rendered.is_certain or self._controls(ids) == self._controls(rendered.control_ids):
                return ids
        return self._encode_segments(rendered)

    def _controls(self, ids: list[int]) -> list[int]:
        """Return the control tokens among these."""
        known = self._control_tokens.ids
        return [token for token in ids if token in known]

    def _encode_segments(self, rendered: RenderedChat) -> list[int]:
        segments = rendered.segments
        ids: list[int] = []
        neighbours = zip([None, *segments], segments, [*segments[1:], None], strict=False)
        for before, one, behind in neighbours:
            if is_enough(ids):
                break
            if one.token:
                ids.append(one.token.id)
                continue
            text = one.text
            if before and before.token and before.token.rstrip:
                text = text.lstrip()
            if behind and behind.token and behind.token.lstrip:
                text = text.rstrip()
            ids += self._encode_ordinary(text, is_first=before is None)
        return ids

    def _encode_ordinary(self, text: str, *, is_first: bool) -> list[int]:
        """Return the ids of ordinary text; divide it where the library has control tokens in it.

        Some libraries find some of them even if they are told not to look for any.
        """
        ids = self._tokenizer.tokenize_ordinary(text, is_first=is_first) if text else []
        if not self._controls(ids):
            return ids
        if len(text) == 1:
            return []
        cuts = [one.start() + 1 for one in self._control_tokens.find(text)]
        inner = [cut for cut in cuts if cut < len(text)] or [len(text) // 2]
        pieces = (text[at:end] for at, end in itertools.pairwise([0, *inner, len(text)]))
        return [
            token
            for number, piece in enumerate(pieces)
            for token in self._encode_ordinary(piece, is_first=is_first and not number)
        ]
