"""A chat as it is sent to a service, as much of it as fits into the model's context window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from backends._media.attachments import Attachment
from backends._media.links import placeholder_numbers, side_note, with_texts
from kuwa_min.chat import prompt as prompts
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.truncation import fit
from kuwa_min.options.constraint import Constraint

from . import token_estimate
from .api_key import Key
from .sentences import LAST_FILE_ONLY


class AnswerUsage(NamedTuple):
    """What a service reports of an answer at its end; 0 tokens where it reports none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt
    is_cut: bool = False  # by a limit of its length


CountUsage = Callable[[AnswerUsage], None]


class CompletionRequest(NamedTuple):
    """One chat as it is sent to a service. Immutable: each change returns another request.

    Context fitting: `prompt` is the whole chat, `messages` what is sent of it. `fitted` drops the
    oldest exchanges, in blocks, until our estimate is within a limit; the system prompt and the
    last message stay. Where the service counts more tokens than we estimate, it refuses, and
    `truncated` drops more: as much as its numbers tell, or a block at a time.
    """

    model: str
    prompt: prompts.Prompt
    messages: list[Message]  # as much of the prompt as fits; placeholders stand where files belong
    files: dict[int, Attachment]  # by the number of their placeholder
    options: dict[str, Any]
    key: Key
    notes: tuple[str, ...] = ()  # sentences on links that were not read
    separate_thoughts: bool = False  # as ThoughtChunk pieces, not as text of the answer
    constraint: Constraint | None = None  # what the answer must match

    def attachment_note(self) -> str:
        """Return the side note on links that were not read; empty if all were."""
        return side_note(self.notes)

    def fitted(self, limit: int) -> CompletionRequest:
        """Return the request with as many messages as fit into `limit` tokens.

        Raises AnswerError if not even the last message does.
        """
        count = token_estimate.chat_tokens
        messages = fit(self.prompt, length=count, estimate=lambda one: count([one]), limit=limit)
        return self._replace(messages=messages)

    def truncated(self, share: float | None) -> CompletionRequest:
        """Return it with about this share of its tokens; without a share, some messages shorter.

        Raises AnswerError if not even the last message fits.
        """
        length = token_estimate.chat_tokens(self.messages)
        return self.fitted(min(length - 1, int(length * share) if share else length))

    def with_fewer_files(self) -> CompletionRequest | None:
        """Return it with the files of the last message, then with the last of those; then None."""
        numbers = placeholder_numbers(self.prompt.history[-1]["content"])
        last = [number for number in numbers if number in self.files]
        if len(self.files) > len(last):
            return self._with_files(last)
        if len(last) > 1:
            kept = self._with_files(last[-1:])
            return kept._replace(notes=(*self.notes, LAST_FILE_ONLY))
        return None

    def _with_files(self, numbers: list[int]) -> CompletionRequest:
        """Return it with these files only; the others' links stand in the text again."""
        links = {one: file.text for one, file in self.files.items() if one not in numbers}
        kept = with_texts(self.prompt.history, links)
        return self._replace(
            files={one: self.files[one] for one in numbers},
            prompt=self.prompt._replace(history=kept),
            messages=with_texts(self.messages, links),
        )
