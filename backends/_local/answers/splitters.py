"""Create the splitter of a request, which tells the thoughts of its answer from the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kuwa_min import Modelfile
from kuwa_min.chat import prompt as prompts
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.thinking.answer_text import Splitter, WholeText
from kuwa_min.chat.thinking.formats import Wrappers, wrappers_but


class SplittingModel(Protocol):
    """A model, as far as splitters need it."""

    def create_splitter(self, prompt_ids: Sequence[int], wrappers: Wrappers) -> Splitter:
        """Return what tells thoughts from the answer to a prompt."""


def create_splitter(
    model: SplittingModel,
    prompt_ids: Sequence[int],
    history: list[Message],
    modelfile: Modelfile,
    system_prompt: str,
) -> Splitter:
    """Return the splitter of the answer to a prompt.

    Tags that the chat, the Modelfile or the system prompt mentions are text, not markup.
    """
    if modelfile.extras.raw_prompt:
        return WholeText()
    bot = (modelfile.override_system_prompt, modelfile.before_prompt, modelfile.after_prompt)
    asked = prompts.asked([*modelfile.messages, *history])
    return model.create_splitter(prompt_ids, wrappers_but([*asked, *bot, system_prompt]))
