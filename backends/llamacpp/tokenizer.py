"""The tokenizer of a GGUF: whole chats with control tokens, ordinary text without."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import llama_cpp

from backends._local.tokenizing.control_tokens import NO_TOKEN, ControlToken, ControlTokens
from backends._local.tokenizing.rendering import Template, written_tokens
from backends._local.tokenizing.split_points import byte_level_text, character_level_text
from kuwa_min.chat.thinking import formats

from .bindings import holding_gil

token_text = holding_gil(llama_cpp.llama_vocab_get_text)
token_piece = holding_gil(llama_cpp.llama_token_to_piece)
token_attributes = holding_gil(llama_cpp.llama_vocab_get_attr)
SHORT_PIECE = 64  # bytes
NULL = -1  # llama.cpp's token for one that a model does not have
# of the tokens whose pieces llama_token_to_piece() leaves empty
SPECIAL = llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN | llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
ADDED = SPECIAL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
LSTRIP, RSTRIP = llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP, llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP


# Facts (llama.cpp of llama-cpp-python 0.3.36, llama-vocab.cpp):
# - tokenize() cuts the text at each token of ADDED, the longest ones first, and tokenizes what is
#   between them piece by piece, so that nothing joins across such a token;
# - SentencePiece vocabularies get a space in front of the first piece and behind each such token,
#   which is in front of every text that a call begins with;
# - without parse_special it does not look for those of SPECIAL, but for user-defined ones;
# - gpt-oss's <|start|>, <|channel|> and <|message|> are user-defined, whatever its file says, so
#   that llama.cpp has a text for them; we take them for special tokens all the same.


class LlamaTokenizer:
    """Tokenizes for a model; any thread may call it.

    vocabulary: llama.cpp's pointer.
    """

    control_tokens: ControlTokens

    def __init__(self, vocabulary: Any) -> None:
        self._vocabulary = vocabulary
        size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        attributes = list(map(token_attributes, repeat(vocabulary, size), range(size)))
        self._added = {
            token: ControlToken(
                token, self.text(token), lstrip=bool(bits & LSTRIP), rstrip=bool(bits & RSTRIP)
            )
            for token, bits in enumerate(attributes)
            if bits & ADDED
        }
        self.markup: Mapping[int, str] = {
            token: one.text
            for token, one in self._added.items()
            if attributes[token] & SPECIAL or one.text in formats.HARMONY_TOKENS
        }

    def eos_token_ids(self) -> frozenset[int]:
        """Return the tokens that end a completion: the model's own two, and others by their names.

        llama.cpp makes each of the latter a control token.
        """
        own = (llama_cpp.llama_vocab_eos, llama_cpp.llama_vocab_eot)
        tokens = {*self._added, *(token(self._vocabulary) for token in own)} - {NULL}
        ends = llama_cpp.llama_vocab_is_eog
        return frozenset(token for token in tokens if ends(self._vocabulary, token))

    def token_texts(self) -> Iterator[str]:
        """Return the texts of all tokens, as SplitPoints wants them."""
        kind = llama_cpp.llama_vocab_type(self._vocabulary)
        is_byte_level = kind == llama_cpp.LLAMA_VOCAB_TYPE_BPE
        text = byte_level_text if is_byte_level else character_level_text
        for token in range(llama_cpp.llama_vocab_n_tokens(self._vocabulary)):
            yield text(self.text(token))
        yield from (one.text for one in self._added.values())

    def token_bytes(self) -> list[bytes]:
        """Return the bytes of all tokens' texts, by their ids."""
        return [*map(self._bytes, range(llama_cpp.llama_vocab_n_tokens(self._vocabulary)))]

    def _bytes(self, token: int) -> bytes:
        """Return the bytes of a token's text."""
        size, is_special = SHORT_PIECE, token in self.markup
        for _ in range(2):
            buffer = ctypes.create_string_buffer(size)
            count = token_piece(self._vocabulary, token, buffer, size, 0, is_special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count
        return b""

    def use_template(self, template: Template) -> None:
        """Take the special tokens as control tokens, and others that the chat template writes."""
        special = [self._added[token] for token in self.markup]
        others = [one for one in self._added.values() if one.id not in self.markup]
        self.control_tokens = ControlTokens(
            [*special, *written_tokens(template, others)],
            also_ordinary=self.tokenize_ordinary(NO_TOKEN, is_first=True),
        )

    def text(self, token: int) -> str:
        """Return the text of a token as the vocabulary writes it; "" for -1, which is none."""
        if token < 0:
            return ""
        text = token_text(self._vocabulary, token)
        return (text or b"").decode("utf-8", "replace")

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, with that of special ones."""
        ids, size = (llama_cpp.llama_token * len(tokens))(*tokens), 0
        for _ in range(2):
            buffer = ctypes.create_string_buffer(size)
            count = llama_cpp.llama_detokenize(
                self._vocabulary, ids, len(tokens), buffer, size, False, True
            )
            if count >= 0:
                return buffer.raw[:count].decode("utf-8", "replace")
            size = -count
        return ""

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a rendered chat."""
        return self._tokenize(text, parse_special=True)

    def tokenize_ordinary(self, text: str, *, is_first: bool) -> list[int]:
        """Return the token ids of a text without special tokens, whatever it looks like.

        is_first makes no difference to llama.cpp.
        """
        return self._tokenize(text, parse_special=False)

    def _tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        data = text.encode()
        size = len(data) + 1  # a token has a byte or more; some vocabularies prepend a space
        for _ in range(2):
            tokens = (llama_cpp.llama_token * size)()
            # add_special is off: the template writes the first token itself
            count = llama_cpp.llama_tokenize(
                self._vocabulary, data, len(data), tokens, size, False, parse_special
            )
            if count >= 0:
                return tokens[:count]
            size = -count
        raise RuntimeError("llama_tokenize() does not say how much room it needs")
