"""A transformers tokenizer: whole chats with control tokens, ordinary text without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from backends._local.tokenizing.bounds import is_enough
from backends._local.tokenizing.control_tokens import NO_TOKEN, ControlToken, ControlTokens
from backends._local.tokenizing.rendering import Template, written_tokens

from .vocabulary import token_bytes, token_texts

Encode = Callable[[str], list[int]]
NEWLINE = "\n"


class LibraryTokenizer:
    """The tokenizer of a model; any thread may call it.

    markup: the texts of special tokens, by their ids; template: writes further control tokens;
    embeddings: how many tokens have weights.
    """

    def __init__(
        self, library: Any, markup: Mapping[int, str], template: Template, embeddings: int
    ) -> None:
        self._library = library
        tokens = {token: ControlToken(token, text) for token, text in markup.items()}
        added = getattr(library, "added_tokens_decoder", {})
        tokens |= {token: _control_token(token, one) for token, one in added.items()}
        self.weightless = [one for one in tokens.values() if one.id >= embeddings]
        usable = [one for one in tokens.values() if one.id < embeddings]
        others = [one for one in usable if one.id not in markup]
        special = [one for one in usable if one.id in markup]
        control = [*special, *written_tokens(template, others)]
        self.control_tokens = ControlTokens(
            control,
            self.weightless,
            also_ordinary=[*self.tokenize(NO_TOKEN), getattr(library, "unk_token_id", None)],
            is_exact=not _normalizes(library),
        )
        self._spellings: dict[str, list[int]] = {}  # of control tokens that people wrote
        self._newline = self.tokenize(NEWLINE)
        anchors = sorted(special, key=lambda one: one.rstrip)
        self._anchor = next(filter(self._is_anchor, anchors), None)

    def token_texts(self) -> Iterable[str] | None:
        """Return the texts of all tokens for SplitPoints; None if texts are not divisible."""
        return token_texts(self._library)

    def token_bytes(self) -> list[bytes] | None:
        """Return the bytes of all tokens' texts, by their ids; None if they are not known."""
        return token_bytes(self._library)

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a rendered chat."""
        # no special tokens are added: the template writes them
        return cast("list[int]", self._library(text, add_special_tokens=False).input_ids)

    def tokenize_ordinary(self, text: str, *, is_first: bool) -> list[int]:
        """Return the token ids of a text without control tokens, whatever it looks like.

        As transformers does with sanitize_control_tokens: the texts of control tokens by
        themselves, without looking for added tokens, and what is between them as usual.
        """
        ids: list[int] = []
        at, encode = 0, self.tokenize if is_first else self._behind_control_token
        for match in self.control_tokens.find(text):
            if is_enough(ids):
                return ids
            ids += encode(text[at : match.start()]) if at < match.start() else []
            ids += self._spelled_out(match[0])
            at, encode = match.end(), self._in_midst
        return ids + encode(text[at:])

    def _spelled_out(self, text: str) -> list[int]:
        """Return the ids of a control token's text as ordinary text, and keep them."""
        if text not in self._spellings:
            self._spellings[text] = self._in_midst(text, self._without_added_tokens)
        return self._spellings[text]

    def _is_anchor(self, token: ControlToken) -> bool:
        """Tell whether a control token is found in front of a letter."""
        return self.tokenize(f"{token.text}a")[:1] == [token.id]

    def _behind_control_token(self, text: str) -> list[int]:
        """Return the ids that a text has behind a control token, which takes no space of it."""
        anchor = self._anchor
        if anchor is None or (anchor.rstrip and text[:1].isspace()):
            return self._in_midst(text)
        return self.tokenize(anchor.text + text)[1:]

    def _in_midst(self, text: str, encode: Encode | None = None) -> list[int]:
        """Return the ids that a text has in the midst of others, without a space in front."""
        encode = encode or self.tokenize
        ids, newline = encode(NEWLINE + text), self._newline
        return ids[len(newline) :] if ids[: len(newline)] == newline else encode(text)

    def _without_added_tokens(self, text: str) -> list[int]:
        """Return the ids of a text whatever tokens were added to the vocabulary."""
        inner = getattr(self._library, "backend_tokenizer", None)
        if inner is None:
            return cast(
                "list[int]",
                self._library.encode(text, add_special_tokens=False, split_special_tokens=True),
            )
        if inner.normalizer is not None:
            text = inner.normalizer.normalize_str(text)
        pieces = [text]
        if inner.pre_tokenizer is not None:
            pieces = [piece for piece, _ in inner.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for piece in pieces for token in inner.model.tokenize(piece)]


def _control_token(token: int, added: Any) -> ControlToken:
    return ControlToken(token, str(added), added.lstrip, added.rstrip, added.single_word)


def _normalizes(library: Any) -> bool:
    """Tell whether special tokens are found in normalized text: in other spellings, too."""
    inner = getattr(library, "backend_tokenizer", None)
    has_normalizer = inner is not None and inner.normalizer is not None
    added = getattr(library, "added_tokens_decoder", {}).values()
    return has_normalizer and any(one.normalized and one.special for one in added)
