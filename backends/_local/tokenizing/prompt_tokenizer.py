"""From a chat to token ids: control tokens are the template's, all else is ordinary text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from backends._media.links import PLACEHOLDER
from kuwa_min.chat.modelfile import Message

from .bounds import is_enough
from .control_tokens import ControlTokens
from .rendering import ChatRenderer, RenderedChat, Template

Pictures = Mapping[int, Sequence[int]]  # number of a placeholder -> token ids of its picture
NO_PICTURES: Pictures = {}


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


class ModelTokenizer(Tokenizer, Protocol):
    """A tokenizer that knows the bytes that each token stands for."""

    def token_bytes(self) -> list[bytes] | None:
        """Return the bytes of all tokens' texts, by their ids; None if they are not known."""


class PromptTokenizer:
    """Tokenizes the chats of a model; any thread may call it.

    trusted_roles: of messages whose control tokens count as the template's.
    """

    def __init__(self, tokenizer: Tokenizer, trusted_roles: Collection[str] = ()) -> None:
        self._tokenizer, self._control_tokens = tokenizer, tokenizer.control_tokens
        self._renderer = ChatRenderer(tokenizer.control_tokens, trusted_roles)

    def encode(
        self, template: Template, chat: list[Message], pictures: Pictures = NO_PICTURES
    ) -> list[int]:
        """Return the token ids of a chat as a template writes it; raises TemplateError.

        pictures: the ids that stand for the placeholders in the chat.
        """
        rendered = self._renderer.render(template, chat)
        if rendered.is_plain:
            ids = _around(pictures, rendered.text, self._tokenizer.tokenize)
            if rendered.is_certain or self._controls(ids) == self._controls(rendered.control_ids):
                return ids
        return self._encode_segments(rendered, pictures)

    def _controls(self, ids: list[int]) -> list[int]:
        """Return the control tokens among these."""
        known = self._control_tokens.ids
        return [token for token in ids if token in known]

    def _encode_segments(
        self, rendered: RenderedChat, pictures: Pictures = NO_PICTURES
    ) -> list[int]:
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
            encode = partial(self._encode_ordinary, is_first=before is None)
            ids += _around(pictures, text, encode)
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


def _around(pictures: Pictures, text: str, encode: Callable[[str], list[int]]) -> list[int]:
    """Return the ids of a text and of the pictures in it; text between them is tokenized alone."""
    if not pictures:
        return encode(text)
    before, *rest = PLACEHOLDER.split(text)
    ids = encode(before) if before else []
    for number, after in zip(rest[::2], rest[1::2], strict=True):
        ids += pictures.get(int(number), ())
        ids += encode(after) if after else []
    return ids
