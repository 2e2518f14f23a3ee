"""Encode chats with pictures for llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping

from backends._local.prompts.encoder import EncodedPrompt, TextEncoder
from backends._local.tokenizing.bounds import is_enough
from backends._local.tokenizing.prompt_tokenizer import PromptTokenizer
from backends._local.tokenizing.rendering import Template
from backends._local.tokenizing.template_variables import Variables
from backends._media.attachments import ResolvedChat
from backends._media.fetch_policy import LinkError
from backends._media.links import without_space_around
from backends._media.sentences import LINK_NO_ROOM
from kuwa_min.chat.modelfile import Message

from .chat_media import ChatMedia
from .picture_encoder import Picture, PictureEncoder
from .spans import PICTURE_SHARE, find_spans

ALL_SHARE = 3 / 4  # of a prompt's tokens, for all its pictures


class VisionEncoder(TextEncoder):
    """Encodes the chats of one request; pictures: by the numbers of their placeholders."""

    def __init__(
        self,
        template: Template,
        tokenizer: PromptTokenizer,
        variables: Variables,
        *,
        pictures: Mapping[int, Picture],
        encoder: PictureEncoder,
    ) -> None:
        ids = {number: picture.ids for number, picture in pictures.items()}
        super().__init__(template, tokenizer, variables, ids)
        self._of_chat, self._encoder = pictures, encoder

    def encode(self, chat: list[Message]) -> EncodedPrompt:
        """Return the chat's ids, and its encoded pictures as ChatMedia; may take seconds.

        Raises Stopped, and TemplateError.
        """
        ids = super().encode(chat).ids
        if not self._of_chat:
            return EncodedPrompt(ids)
        needed = {tuple(ids[span.start : span.end]) for span in find_spans(ids)}
        encoded = [
            one
            for picture in self._of_chat.values()
            if needed.intersection(picture.span_ids)
            for one in self._encoder.encode(picture, _check_stopped)
        ]
        return EncodedPrompt(ids, ChatMedia(ids, encoded) if encoded else None)


def prepare(
    chat: ResolvedChat, encoder: PictureEncoder, prompt_limit: int
) -> tuple[ResolvedChat, dict[int, Picture]]:
    """Return the chat and its pictures as tokens; the newest get the room that there is first.

    A picture without room, or that cannot be used, becomes a link again, with a side note. Raises
    Stopped.
    """
    left = int(prompt_limit * ALL_SHARE)
    pictures: dict[int, Picture] = {}
    for number, file in sorted(chat.files.items(), reverse=True):
        _check_stopped()
        try:
            picture = encoder.prepare(file, int(prompt_limit * PICTURE_SHARE), _check_stopped)
            if len(picture.ids) > left:
                raise LinkError(LINK_NO_ROOM, len(picture.ids), left)
        except LinkError as error:
            chat = chat.without(number, error)
            continue
        left -= len(picture.ids)
        pictures[number] = picture
    return chat._replace(history=without_space_around(chat.history)), pictures


def _check_stopped() -> None:
    """Raise Stopped if the request was stopped."""
    is_enough([])
