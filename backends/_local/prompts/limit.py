"""Fit chats into the prompt limit of a model; refuse those that cannot fit before tokenizing."""

from __future__ import annotations

import itertools
from typing import Protocol

from backends._local.tokenizing.piece_tokenizer import PieceTokenizer
from backends._local.tokenizing.text_lengths import TextLengths
from backends._media.links import without_data
from kuwa_min.chat import truncation
from kuwa_min.chat.catalog import TOO_LONG
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.prompt import Prompt
from kuwa_min.errors import AnswerError

from .encoder import PromptEncoder

MESSAGE_TOKENS = 4  # that a template adds to a message, about
SLACK = 4  # times the characters of a prompt: templates leave out spaces and thoughts
ANSWER_SHARE = 8  # a prompt leaves 1/8 of the context to the answer, or more


class Context(Protocol):
    """The context of a model, which may be set after the limit is made."""

    context_length: int  # tokens of prompt and completion together


class PromptLimit:
    """Truncates the chats of a model to its longest prompt; any thread may call it.

    For a request, truncate_history() first, before anything is rendered or tokenized, then fit().
    max_tokens: of a prompt, if the context has room for them.
    """

    def __init__(self, context: Context, tokenizer: PieceTokenizer, max_tokens: int) -> None:
        self._context, self._tokenizer, self._max_tokens = context, tokenizer, max_tokens
        self.text_length = TextLengths(tokenizer.tokenize)

    @property
    def tokens(self) -> int:
        """Return the longest prompt in tokens, which leaves room for an answer in the context."""
        length = self._context.context_length
        return min(self._max_tokens, length - max(1, length // ANSWER_SHARE))

    def truncate_history(self, history: list[Message]) -> list[Message]:
        """Return the newest messages that may fit, by their characters.

        The content of data: URLs does not count: no model reads it as text. Raises AnswerError if
        the last question cannot fit.
        """
        texts, _ = without_data(history)
        asked = itertools.takewhile(lambda one: one["role"] == "user", reversed(texts))
        self._refuse_excess(*(message["content"] for message in asked))
        whole = {id(text): message for text, message in zip(texts, history, strict=True)}
        kept = truncation.recent(texts, characters=self._max_characters, messages=self.tokens)
        return [whole[id(text)] for text in kept]

    def fit(self, prompt: Prompt, encoder: PromptEncoder) -> list[Message]:
        """Return as many messages of a prompt as fit; raises AnswerError and TemplateError."""
        self._refuse_excess(prompt.system, prompt.history[-1]["content"])
        if sum(len(one["content"]) for one in prompt.examples) > self._max_characters:
            prompt = prompt._replace(examples=[])

        def estimate(message: Message) -> int:
            text = self.text_length(message["content"])
            return text + MESSAGE_TOKENS + encoder.count_image_tokens(message)

        return truncation.fit(
            prompt, length=encoder.count_tokens, estimate=estimate, limit=self.tokens
        )

    @property
    def _max_characters(self) -> int:
        """Return an upper bound of the characters of a prompt."""
        return SLACK * self.tokens * self._tokenizer.longest_token

    def _refuse_excess(self, *texts: str) -> None:
        """Raise AnswerError if the texts, of which none can be left out, cannot fit together."""
        if sum(len(text.strip()) for text in texts) > self._max_characters:
            raise AnswerError(TOO_LONG)
