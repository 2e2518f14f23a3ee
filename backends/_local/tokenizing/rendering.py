"""Render a chat so that each control token in the text is known to come from the template."""

# The strategy. A template is rendered to text, in which a person's "<|im_start|>" looks like the
# template's own. Where people wrote no character that a control token begins or ends with, there is
# nothing to tell apart. Else the chat is rendered once more, with private characters instead of
# those: the control tokens that are found then are the template's. If they are the same ones, the
# first text is as good as it is, to the letter what the library would read (templates look into
# what people and models write, for "</think>" and the like). If there were more, the second text is
# taken, people's characters are put back, and what they form is ordinary text.

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from backends._local.templates.chat_template import PROBE, TemplateError
from kuwa_min.chat.modelfile import Message

from .control_tokens import ControlToken, ControlTokens

# What stands in for people's characters: rare letters for letters, as words are told by them.
LETTERS, OTHERS = range(0x30000, 0x31300), range(0x100000, 0x10FFFE)
RARE = re.compile("[\U00030000-\U000312ff\U00100000-\U0010fffd]")


Pairs = Sequence[tuple[str, str]]  # a character, and what is written for it


class Template(Protocol):
    """A chat template: ChatTemplate, or the SandboxedTemplate of a Modelfile."""

    def render(self, chat: list[Message], /, **more: Any) -> str:
        """Return the chat as text; raises TemplateError if the template refuses it."""


class Segment(NamedTuple):
    """A part of a rendered chat: a control token that the template wrote, or ordinary text.

    Ordinary text is tokenized without control tokens, whatever it looks like.
    """

    text: str
    token: ControlToken | None = None


class RenderedChat(NamedTuple):
    """A chat as text, divided at the template's control tokens.

    is_plain: no ordinary text looks like a control token, so that the text may be tokenized as a
    whole; is_certain: nothing that people wrote could be a part of one, however it is spelled.
    """

    segments: list[Segment]
    is_plain: bool
    is_certain: bool

    def restored(self, pairs: Pairs) -> RenderedChat:
        """Return it with people's own characters, which may look like control tokens now."""
        segments = [
            one if one.token else Segment(replaced(one.text, pairs)) for one in self.segments
        ]
        return RenderedChat(segments, is_plain=False, is_certain=True)

    @property
    def text(self) -> str:
        """Return the whole text."""
        return "".join(one.text for one in self.segments)

    @property
    def control_ids(self) -> list[int]:
        """Return the ids of the template's control tokens, in their order."""
        return [one.token.id for one in self.segments if one.token]


class ChatRenderer:
    """Renders chats for a model with these control tokens; any thread may call it.

    trusted_roles: of messages whose control tokens count as the template's.
    """

    def __init__(self, control_tokens: ControlTokens, trusted_roles: Collection[str] = ()) -> None:
        self._control_tokens, self._trusted_roles = control_tokens, trusted_roles

    def render(self, template: Template, chat: list[Message]) -> RenderedChat:
        """Return a chat as the template writes it; raises TemplateError."""
        known = self._control_tokens
        rendered = self._divided(template.render(chat), is_certain=known.is_exact)
        foreign = [one["content"] for one in chat if one["role"] not in self._trusted_roles]
        suspects = known.suspects(*foreign)
        if not suspects:
            return rendered
        pairs = placeholders(suspects, chat)
        hidden = [
            one
            if one["role"] in self._trusted_roles
            else {**one, "content": replaced(one["content"], pairs)}
            for one in chat
        ]
        own = self._divided(template.render(hidden), is_certain=True)
        restored = own.restored([(there, one) for one, there in pairs])
        if own.control_ids == rendered.control_ids and (
            restored.text == rendered.text or not any(map(known.occur_in, foreign))
        ):
            return rendered._replace(is_certain=False)
        return restored

    def _divided(self, text: str, *, is_certain: bool) -> RenderedChat:
        """Return a template's text, in which all control tokens are its own."""
        text = text.encode("utf-8", "replace").decode()  # templates can write lone surrogates
        segments, at, is_plain = [], 0, True
        for match in self._control_tokens.find(text):
            token = self._control_tokens.by_text.get(match[0])
            if token is None:
                is_plain = False  # it has no weights: it is ordinary text
                continue
            segments += [Segment(text[at : match.start()]), Segment(match[0], token)]
            at = match.end()
        segments.append(Segment(text[at:]))
        return RenderedChat([one for one in segments if one.text], is_plain, is_certain)


def placeholders(characters: Iterable[str], chat: list[Message]) -> Pairs:
    """Return for each of these characters another one that no message has."""
    used = {one for message in chat for one in RARE.findall(message["content"])}
    letters, others = (
        itertools.chain((one for one in map(chr, codes) if one not in used), itertools.repeat("?"))
        for codes in (LETTERS, OTHERS)
    )
    return [(one, next(letters if one.isalnum() or one == "_" else others)) for one in characters]


def replaced(text: str, pairs: Pairs) -> str:
    """Return the text with the second character of each pair for the first."""
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def written_tokens(template: Template, tokens: Iterable[ControlToken]) -> list[ControlToken]:
    """Return those tokens that a template writes around what people say, whatever that is."""
    said = [{"role": role, "content": PROBE} for role in ("user", "assistant", "user")]
    for chat in ([{"role": "system", "content": PROBE}, *said], said, said[:1]):
        try:
            text = template.render(chat)
        except TemplateError:
            continue
        return [one for one in tokens if one.text.strip() and one.text in text]
    return []
