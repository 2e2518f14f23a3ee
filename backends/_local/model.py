"""The protocol of the models that engines load."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Protocol

from backends._local.templates.chat_template import ChatTemplate
from kuwa_min.chat.thinking.answer_text import Splitter
from kuwa_min.chat.thinking.formats import Wrappers

from .tokenizing.prompt_tokenizer import ModelTokenizer


class Model(Protocol):
    """A loaded model, as the threads of requests use it."""

    context_length: int  # tokens of prompt and completion together
    chat_template: ChatTemplate  # its own, or the one of --override_chat_template
    template_variables: frozenset[str]  # which it reads
    offers_functions: bool  # by its template, see templates/tool_format
    special_tokens: dict[str, Any]  # variables of templates: bos_token and the like, as text
    markup: Mapping[int, str]  # the text of special tokens, by their ids
    turn_markers: tuple[str, ...]  # stop strings of the plain template, if it has no other one
    vocabulary_size: int
    tokenizer: ModelTokenizer

    @property
    def eos_token_ids(self) -> Container[int]:
        """Return the tokens that end a completion."""

    def info(self) -> dict[str, Any]:
        """Return facts about the model for /status."""

    def create_splitter(self, prompt_ids: Sequence[int], wrappers: Wrappers) -> Splitter:
        """Return a splitter of thoughts and answer; the prompt may end within a thought.

        wrappers: tags around the answer that are markup.
        """

    def check_device(self, failure: BaseException) -> None:
        """Raise DeviceLost if a failure shows that the device can no longer compute."""
