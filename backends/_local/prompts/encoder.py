"""From a chat to the token ids that a model reads, by its own template or by a Modelfile's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from backends._local.templates.chat_template import TemplateError
from backends._local.tokenizing.prompt_tokenizer import (
    NO_PICTURES,
    Pictures,
    PromptTokenizer,
    Tokenizer,
)
from backends._local.tokenizing.rendering import Template
from backends._local.tokenizing.template_variables import NO_VARIABLES, Variables
from backends._media.links import placeholder_numbers
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.prompt import fold_system

PROBE: list[Message] = [{"role": "user", "content": "a"}]
SYSTEM_PROBES = "a b c", "a b c d e f g h i j k l"  # the second one has more tokens


class EncodedPrompt(NamedTuple):
    """A prompt as a model reads it."""

    ids: list[int]  # token ids
    model_inputs: Any = None  # what goes with them: pixel values and the like


class PromptEncoder(Protocol):
    """Encodes the chats of one request; used by that request's thread only.

    count_tokens() is called for one history after the other until one fits the prompt limit, then
    encode() once for that one.
    """

    def count_tokens(self, chat: list[Message]) -> int:
        """Return the length of a chat in tokens; raises TemplateError."""

    def encode(self, chat: list[Message]) -> EncodedPrompt:
        """Return the chat's token ids and further inputs; raises TemplateError."""

    def count_image_tokens(self, message: Message) -> int:
        """Return the tokens of a message's images, which are no part of its text."""


class ChatInput(NamedTuple):
    """The encoder for a request, its history as that encoder wants it, and what was left out."""

    encoder: PromptEncoder
    history: list[Message]
    notes: tuple[str, ...] = ()  # sentences for a side note


class BoundTemplate:
    """A chat template with the variables of one request."""

    def __init__(self, template: Template, variables: Variables) -> None:
        self._template, self._variables = template, variables

    def render(self, chat: list[Message], /, **more: Any) -> str:
        """Return the chat as text; raises TemplateError if the template refuses it."""
        return self._template.render(chat, **self._variables, **more)


class TextEncoder:
    """Renders a chat by its template, then tokenizes the text; images are ready-made token ids.

    variables: of the template, beside the chat; pictures: the ids that stand for placeholders.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: PromptTokenizer,
        variables: Variables = NO_VARIABLES,
        pictures: Pictures = NO_PICTURES,
    ) -> None:
        self._template, self._tokenizer = BoundTemplate(template, variables), tokenizer
        self._pictures = pictures
        self._last: tuple[list[Message], list[int]] | None = None

    def count_tokens(self, chat: list[Message]) -> int:
        """Return the length of a chat in tokens; raises TemplateError."""
        return len(self._ids(chat))

    def encode(self, chat: list[Message]) -> EncodedPrompt:
        """Return the chat's token ids; raises TemplateError."""
        return EncodedPrompt(self._ids(chat))

    def count_image_tokens(self, message: Message) -> int:
        """Return the tokens of a message's images."""
        if not self._pictures:
            return 0
        numbers = placeholder_numbers(message["content"])
        return sum(len(self._pictures.get(number, ())) for number in numbers)

    def _ids(self, chat: list[Message]) -> list[int]:
        """Return a chat's token ids; encode() asks for those that count_tokens() had last."""
        if self._last is None or self._last[0] != chat:
            self._last = chat, self._tokenizer.encode(self._template, chat, self._pictures)
        return self._last[1]


class SystemFoldingEncoder:
    """Encodes for templates without a system role: folds the system prompt into a user message."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder

    def count_tokens(self, chat: list[Message]) -> int:
        """Return the length of a chat in tokens; raises TemplateError."""
        return self._encoder.count_tokens(fold_system(chat))

    def encode(self, chat: list[Message]) -> EncodedPrompt:
        """Return the chat's token ids and further inputs; raises TemplateError."""
        return self._encoder.encode(fold_system(chat))

    def count_image_tokens(self, message: Message) -> int:
        """Return the tokens of a message's images."""
        return self._encoder.count_image_tokens(message)


class RawPromptEncoder:
    """Encodes the last message alone, as it is: for clients that write prompts themselves.

    Control tokens in its text are parsed as such. bos: the text of the token that it must begin
    with, "" for none.
    """

    def __init__(self, tokenizer: Tokenizer, bos: str) -> None:
        self._tokenizer, self._bos = tokenizer, bos

    def count_tokens(self, chat: list[Message]) -> int:
        """Return the length of the prompt in tokens."""
        return len(self._ids(chat))

    def encode(self, chat: list[Message]) -> EncodedPrompt:
        """Return the prompt's token ids."""
        return EncodedPrompt(self._ids(chat))

    def count_image_tokens(self, message: Message) -> int:
        """Return 0: there are no images."""
        return 0

    def _ids(self, chat: list[Message]) -> list[int]:
        text = chat[-1]["content"]
        return self._tokenizer.tokenize(text if text.startswith(self._bos) else self._bos + text)


def supports_system_role(encoder: PromptEncoder) -> bool:
    """Tell whether the template renders a system prompt, instead of refusing or ignoring it.

    A longer one then makes a longer chat. (A chat without any may be longer than both, as many
    templates insert a default one.) Raises TemplateError if it refuses a chat without one, too.
    """
    user = {"role": "user", "content": "?"}
    encoder.count_tokens([user])
    try:
        short, long = (
            encoder.count_tokens([{"role": "system", "content": probe}, user])
            for probe in SYSTEM_PROBES
        )
    except TemplateError:
        return False
    return long > short


def bos_of(encoder: PromptEncoder, tokenizer: Tokenizer, special_tokens: Mapping[str, Any]) -> str:
    """Return the text of the BOS token if the model's own prompts begin with it, else "".

    encoder: with the model's own template; special_tokens: its variables, such as bos_token.
    """
    bos = str(special_tokens.get("bos_token") or "")
    ids = tokenizer.tokenize(bos) if bos else []
    return bos if ids and encoder.encode(PROBE).ids[: len(ids)] == ids else ""
