"""Find where a text can be divided so that its parts are tokenized as the whole is.

Knows no library.
"""

# Why the result is the same. A tokenizer normalizes a text, divides it by a regular expression or
# not at all, then joins characters or bytes to tokens (BPE, SentencePiece, Unigram, WordPiece).
# A place in a text is a split point if
# 1. no token of the vocabulary has the two characters around it side by side: no token can span it,
#    and whatever is joined on one side does not depend on the other;
# 2. a letter or digit stands before it, and a space or punctuation behind it. There, regular
#    expressions of tokenizers either end a match, or have no part in it; and no normalizer that the
#    backends accept joins such a pair. An apostrophe, an underscore or a combining character may
#    continue a word. In a run of Chinese characters, every expression goes on as it began;
# 3. the tokenizer divides a few texts at all their split points alike: see find_split_points().
# The property tests compare with whole texts.

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

Tokenize = Callable[[str], list[int]]

AFTER = r" \t\r\n!-&(-/:-@\[-^`{-~、。，！？：；（）「」『』"
CHINESE = "一-鿿"
SPLIT_POINT = re.compile(rf"[^\W_](?=[{AFTER}])|[{CHINESE}](?=[{CHINESE}])")
# In tokens, a lone surrogate is a byte that is no whole character, as Python writes it.
PAIR = re.compile(rf"(?=((?:[^\W_]|[\udc80-\udcff])[{AFTER}{CHINESE}\udc80-\udcff]))")
PROBE = (
    "word two  7, x.\nline\n\nB 12!?  c\tT (a) it's 3.14; A_b: {x} [y] <z> U+1F600 /usr/bin a=b\r\n"
    "1 2\n漢字測試，繁體。 Latin文字 end"
)
LEAD = "\n"  # that no token joins with what follows it, in vocabularies with a space first
NEAR = 256  # characters in which there usually is a split point
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
HIDDEN = [byte for byte in range(256) if byte not in PRINTABLE]
# by which byte-level vocabularies write each byte
BYTES = {chr(byte): byte for byte in PRINTABLE} | {
    chr(256 + number): byte for number, byte in enumerate(HIDDEN)
}


class SplitPoints:
    """The places where texts can be divided; for any thread.

    vocabulary: the texts of all tokens, special ones included, with spaces as such, and with lone
    surrogates for bytes that are no character. tokenize: returns the tokens of a text. lead: what
    a part that is not the first one is tokenized with, as the tokenizer puts a space before every
    text; "" if it does not.
    """

    def __init__(self, vocabulary: Collection[str], tokenize: Tokenize, lead: str = "") -> None:
        self.longest_token = max(map(len, vocabulary), default=1)  # characters
        self._pairs = frozenset(PAIR.findall("\0".join(vocabulary)))
        self._lead = lead
        self._lead_tokens = len(tokenize(lead)) if lead else 0

    def last(self, text: str, start: int, end: int) -> int | None:
        """Return the last split point behind `start`, at `end` at most; None if there is none."""
        for since in (max(start, end - NEAR), start):
            places = [found.end() for found in SPLIT_POINT.finditer(text, since, end + 1)]
            for place in reversed(places):
                if place <= end and not self._may_be_spanned(text, place):
                    return place
        return None

    def tokens_behind(self, tokenize: Tokenize, part: str) -> list[int]:
        """Return the tokens of what follows a split point, or begins with a control token."""
        return tokenize(self._lead + part)[self._lead_tokens :]

    def _may_be_spanned(self, text: str, place: int) -> bool:
        """Tell whether a token has the characters around a place, or the bytes, side by side."""
        before, after = text[place - 1], text[place]
        pairs = {before + after}
        if not (before.isascii() and after.isascii()):
            pairs |= {_last_byte(before) + after, before + _first_byte(after)}
            pairs.add(_last_byte(before) + _first_byte(after))
        return not self._pairs.isdisjoint(pairs)


def byte_level_text(token: str) -> str:
    """Return what SplitPoints wants of a token of a byte-level vocabulary."""
    try:
        return bytes(map(BYTES.__getitem__, token)).decode("utf-8", "surrogateescape")
    except KeyError:  # an added token, which is written as it is
        return token


def character_level_text(token: str) -> str:
    """Return what SplitPoints wants of a token of a vocabulary of characters."""
    return token.replace("\u2581", " ")  # by which SentencePiece writes it


def find_split_points(vocabulary: Iterable[str], tokenize: Tokenize) -> SplitPoints | None:
    """Return the split points of a tokenizer; None if it does not divide a text as it should."""
    texts = [*vocabulary]
    leads = [""] if any(LEAD in text[:-1] for text in texts) else ["", LEAD]
    found = (SplitPoints(texts, tokenize, lead) for lead in leads)
    return next((split_points for split_points in found if _divides(split_points, tokenize)), None)


def _divides(split_points: SplitPoints, tokenize: Tokenize) -> bool:
    """Tell whether a text that is divided at any split point is tokenized as the whole."""
    whole = tokenize(PROBE)
    places = {split_points.last(PROBE, at, at + 1) for at in range(len(PROBE) - 1)} - {None}
    return all(
        tokenize(PROBE[:at]) + split_points.tokens_behind(tokenize, PROBE[at:]) == whole
        for at in places
    )


def _last_byte(character: str) -> str:
    return character.encode()[-1:].decode("utf-8", "surrogateescape")


def _first_byte(character: str) -> str:
    return character.encode()[:1].decode("utf-8", "surrogateescape")
