"""The control tokens of a vocabulary: those that begin and end turns and texts.

Only a chat template writes them. In what people write, their text is ordinary text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from os.path import commonprefix
from typing import NamedTuple

NOTHING = "(?!)"  # a regular expression that matches nowhere
NO_TOKEN = "\U0010fffd"  # a text that no vocabulary has


class ControlToken(NamedTuple):
    """A token that a tokenizer finds by its text, before it divides the rest into other tokens."""

    id: int
    text: str
    lstrip: bool = False  # it takes the white space in front of it
    rstrip: bool = False  # it takes the white space behind it
    single_word: bool = False  # letters beside it make it ordinary text


class ControlTokens:
    """Finds the texts of control tokens.

    tokens: those with weights; weightless: those that the tokenizer has and the model does not;
    also_ordinary: ids that ordinary text may have, too, as that of unknown letters;
    is_exact: the tokenizer finds these texts in no other spelling. White space alone is ordinary
    text, whatever a vocabulary says.
    """

    def __init__(
        self,
        tokens: Iterable[ControlToken] = (),
        weightless: Iterable[ControlToken] = (),
        *,
        also_ordinary: Iterable[int | None] = (),
        is_exact: bool = True,
    ) -> None:
        self.is_exact = is_exact
        self.by_text = {one.text: one for one in tokens if one.text.strip()}
        found = [*self.by_text.values(), *(one for one in weightless if one.text.strip())]
        self.ids = frozenset(one.id for one in found) - {*also_ordinary}
        words = _any_of(sorted({one.text for one in found if one.single_word}))
        others = _any_of(sorted({one.text for one in found if not one.single_word}))
        whole_words = words and rf"(?<!\w){words}(?!\w)"
        self._pattern = re.compile("|".join(filter(None, (others, whole_words))) or NOTHING)
        texts = {one.text for one in found}
        self._ends = frozenset(text[at] for text in texts for at in (0, -1))
        self._ends_pattern = re.compile(_one_of(self._ends) or NOTHING)
        self._longest, self._joined = max(map(len, texts), default=0), "\n".join(texts)

    def find(self, text: str) -> Iterator[re.Match[str]]:
        """Find these texts from left to right, the longest at each place."""
        return self._pattern.finditer(text)

    def places(self, text: str, start: int, end: int) -> list[int]:
        """Return where, behind `start` and at `end` at most, control tokens begin.

        Those with weights that do not depend on what is in front of them.
        """
        found = self._pattern.finditer(text, start, end + self._longest)
        tokens = ((one.start(), self.by_text.get(one[0])) for one in found)
        return [
            at
            for at, token in tokens
            if start < at <= end and token and not (token.lstrip or token.single_word)
        ]

    def occur_in(self, text: str) -> bool:
        """Tell whether one of these texts is in a text."""
        return self._pattern.search(text) is not None

    def suspects(self, *texts: str) -> frozenset[str]:
        """Return characters without which no part of these texts could be a part of one of ours.

        Such a part has the first or the last character, or it is a whole text and stands within;
        so there are none in most texts.
        """
        return frozenset[str]().union(*map(self._suspects, texts))

    def _suspects(self, text: str) -> frozenset[str]:
        inner = text.strip()
        if 0 < len(inner) < self._longest and inner in self._joined:
            return frozenset(inner)
        return self._ends if self._ends_pattern.search(text) else frozenset()


def _any_of(texts: Sequence[str]) -> str:
    """Return a regular expression for the longest of these texts, branching at their prefixes.

    texts: sorted. Gemma has 6,000 special tokens: to try one after the other at each "<" takes a
    second.
    """
    branches, may_end = [], False
    for first, group in itertools.groupby(texts, key=lambda text: text[:1]):
        same = [*group]
        start = commonprefix(same)  # noqa: RUF071 - of texts, not of paths
        may_end = may_end or not first
        if first:
            branches.append(re.escape(start) + _any_of([text[len(start) :] for text in same]))
    return f"(?:{'|'.join(branches)}){'?' * may_end}" if branches else ""


def _one_of(characters: Iterable[str]) -> str:
    """Return a regular expression for one of these characters."""
    return "|".join(map(re.escape, sorted(characters)))
