"""Sentences for the users of a chat, in English and in Chinese side by side.

Code that raises or yields a Sentence knows no language; `serving` renders it where the answer is
written, in the language that the request's Accept-Language asks for. Chinese is written as in
Taiwan. What operators read (log, --help, errors at the start) is English only, and no Sentence.

Whole answers stand in chat/catalog.py, since a prompt must leave them out whichever executor wrote
them; reasons and side notes in the `sentences.py` of the folder that uses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, cast

from kuwa_min.errors import message_of

Language = Literal["en", "zh"]
ENGLISH: Language = "en"
CHINESE: Language = "zh"
# One language of an Accept-Language field and its weight; compiled at its first use.
LANGUAGE = r"\s*([A-Za-z*]{1,8})[\w-]*\s*(?:;\s*q\s*=\s*([\d.]{1,5}))?\s*"


class Sentence(str):
    """A sentence in both languages; as a str it is the English one.

    english, chinese: templates with the same gaps, `{}`, which `format` fills. A value may be a
    Sentence itself, such as a reason: it is rendered in the language of the whole. All other
    methods of str, f-strings and join give English text.
    """

    __slots__ = ("_templates", "_values")

    _templates: dict[Language, str]
    _values: tuple[object, ...]

    def __new__(cls, english: str, chinese: str, values: tuple[object, ...] = ()) -> Sentence:
        """Create a sentence; without values its gaps stay open."""
        sentence = super().__new__(cls, english.format(*values) if values else english)
        sentence._templates = {ENGLISH: english, CHINESE: chinese}
        sentence._values = values
        return sentence

    def format(self, *values: object) -> Sentence:  # type: ignore[override]
        """Return the sentence with these values in its gaps; itself if they are filled already."""
        if self._values:
            return self
        return Sentence(self._templates[ENGLISH], self._templates[CHINESE], values)

    @property
    def template(self) -> str:
        """Return the English text with open gaps, by which a sentence is known."""
        return self._templates[ENGLISH]

    def render(self, language: Language) -> str:
        """Return the text in a language."""
        template = self._templates[language]
        if not self._values:
            return template
        return template.format(*(_render_value(value, language) for value in self._values))


def _render_value(value: object, language: Language) -> object:
    return value.render(language) if isinstance(value, Sentence) else value


def render(text: str, language: Language) -> str:
    """Return a Sentence in a language; other text, such as a custom executor's, unchanged."""
    return text.render(language) if isinstance(text, Sentence) else text


def innermost(sentence: str) -> str:
    """Return a sentence without the ON_NEW_LINE around it, however often it was put there."""
    while isinstance(sentence, Sentence) and sentence.template == ON_NEW_LINE.template:
        sentence = cast(str, sentence._values[0])
    return sentence


def join_sentences(sentences: Iterable[str]) -> Sentence:
    """Return sentences with spaces between them as one."""
    values = tuple(sentences)
    template = " ".join(["{}"] * len(values))
    return Sentence(template, template, values)


def sentence_of(error: BaseException) -> str:
    """Return the Sentence that an exception was raised with, or else its message."""
    first = error.args[0] if error.args else None
    return first if isinstance(first, Sentence) else message_of(error)


def language_of(accept_language: object) -> Language:
    """Return the language to render in: Chinese if an Accept-Language field prefers it.

    accept_language: the field's value; English for None and for what cannot be parsed.
    """
    if not isinstance(accept_language, str):
        return ENGLISH
    parts = accept_language.split(",")
    wishes = [found for part in parts if (found := re.fullmatch(LANGUAGE, part))]
    first = max(wishes, key=lambda found: _weight(found[2]), default=None)
    return CHINESE if first is not None and first[1].lower() == "zh" else ENGLISH


def _weight(text: str | None) -> float:
    try:
        return float(text or 1)
    except ValueError:
        return 0.0


ON_NEW_LINE = Sentence("\n{}", "\n{}")  # behind what the model has said already
