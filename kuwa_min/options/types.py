"""The types of options: converters of values and, for argparse, of words of the command line."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable
from typing import Any

from kuwa_min.chat.modelfile_text import read_json
from kuwa_min.chat.sentence import Sentence

from .sentences import (
    MUST_BE_FINITE,
    MUST_BE_NUMBER,
    MUST_BE_OBJECT,
    MUST_BE_PATTERN,
    MUST_BE_SCHEMA,
    MUST_BE_TEXT,
    MUST_BE_TEXTS,
    MUST_BE_TRUTH,
    MUST_BE_WHOLE,
    MUST_BE_WHOLES,
)


class Pattern(str):
    """The kind of a text that is not empty, such as a regular expression."""


class Grammar(Pattern):
    """The kind of such a text that the command line names a file of."""


class Schema(str):
    """The kind of a JSON object as compact text, which the command line names a file of."""


Kind = (
    type[int]
    | type[float]
    | type[str]
    | type[bool]
    | type[list[str]]
    | type[list[int]]
    | type[dict[str, Any]]
    | type[Pattern]
    | type[Schema]
)
IN_FILES = (Schema, Grammar)
AUTO = "auto"  # in place of a number that the program is to find
MAX_TEXTS = 64  # of a list: each stop word is searched in every piece of text
MAX_WHOLES = 256  # of a list
MAX_TEXT_LENGTH = 1000  # characters of each
MAX_OBJECT_LENGTH = 16 << 10  # characters of JSON, as a Modelfile has it
MAX_PATTERN_LENGTH = 64 << 10  # characters of a schema, a regular expression or a grammar
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([KMGT]?)(i?B?)", re.ASCII | re.IGNORECASE)


def convert(kind: Kind, value: Any) -> Any:
    """Convert a value to the type of an option.

    Raises ValueError with a Sentence that says what it must be.
    """
    try:
        converted = _CONVERTERS[kind](value)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(_WANTED[kind]) from None
    if isinstance(converted, float) and not math.isfinite(converted):
        raise ValueError(MUST_BE_FINITE)
    return converted


def _truth(value: Any) -> bool:
    return _TRUTHS[str(value).lower()]


def _whole(value: Any) -> int:
    if isinstance(value, str) and not value.lstrip("+-").isdecimal():
        value = float(value)  # 40.0 is whole, too
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError
    return str(value)


def _texts(value: Any) -> list[str]:
    """Convert to a list of texts: a text, a JSON list as text, or a list of such."""
    parts = value if isinstance(value, (list, tuple)) else [value]
    texts = [_text(one) for part in parts for one in _listed(part)]
    if len(texts) > MAX_TEXTS or any(len(text) > MAX_TEXT_LENGTH for text in texts):
        raise ValueError
    return [text for text in texts if text]


def _wholes(value: Any) -> list[int]:
    """Convert to a list of whole numbers: a number, a JSON list as text, or a list of such."""
    parts = value if isinstance(value, (list, tuple)) else [value]
    numbers = [_whole(one) for part in parts for one in _listed(part)]
    if len(numbers) > MAX_WHOLES:
        raise ValueError
    return numbers


def _listed(value: Any) -> list[Any]:
    parsed = from_json(value) if isinstance(value, str) else None
    return parsed if isinstance(parsed, list) else [value]


def _object(value: Any) -> dict[str, Any]:
    """Convert to an object: a JSON object as text, or a mapping of texts."""
    if isinstance(value, str) and len(value) > MAX_OBJECT_LENGTH:
        raise ValueError
    parsed = from_json(value)
    if not isinstance(parsed, dict) or not all(isinstance(name, str) for name in parsed):
        raise ValueError
    try:
        json.dumps(parsed, allow_nan=False)  # as templates and services read it
    except RecursionError:
        raise ValueError from None
    return parsed


def _pattern(value: Any) -> str:
    text = _text(value)
    if not 0 < len(text) <= MAX_PATTERN_LENGTH:
        raise ValueError
    return text


def _schema(value: Any) -> str:
    """Convert to the JSON text of an object: such text, or a mapping."""
    if isinstance(value, str) and len(value) > MAX_PATTERN_LENGTH:
        raise ValueError
    parsed = from_json(value)
    if not isinstance(parsed, dict):
        raise ValueError
    try:
        text = json.dumps(parsed, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError from None
    return _pattern(text)


def from_json(value: Any) -> Any:
    """Parse text that is a JSON list or object, as in a Modelfile; other values are unchanged."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return read_json(value)
    except (ValueError, RecursionError):
        return value


_TRUTHS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_CONVERTERS: dict[Kind, Callable[[Any], Any]] = {
    bool: _truth,
    int: _whole,
    float: _real,
    str: _text,
    list: _texts,
    list[int]: _wholes,
    dict: _object,
    Pattern: _pattern,
    Grammar: _pattern,
    Schema: _schema,
}
_WANTED: dict[Kind, Sentence] = {
    bool: MUST_BE_TRUTH,
    int: MUST_BE_WHOLE,
    float: MUST_BE_NUMBER,
    str: MUST_BE_TEXT,
    list: MUST_BE_TEXTS.format(MAX_TEXTS, MAX_TEXT_LENGTH),
    list[int]: MUST_BE_WHOLES.format(MAX_WHOLES),
    dict: MUST_BE_OBJECT.format(MAX_OBJECT_LENGTH),
    Pattern: MUST_BE_PATTERN.format(MAX_PATTERN_LENGTH),
    Grammar: MUST_BE_PATTERN.format(MAX_PATTERN_LENGTH),
    Schema: MUST_BE_SCHEMA.format(MAX_PATTERN_LENGTH),
}


# -- numbers of the command line: for argparse's `type`, which shows an ArgumentTypeError's message


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`; None: without an upper bound."""
    wanted = f"of at least {least}" if most is None else f"from {least} to {most}"

    def parse(text: str) -> int:
        if not (text.isascii() and text.removeprefix("-").isdigit()) or not (
            least <= int(text) <= (int(text) if most is None else most)
        ):
            raise argparse.ArgumentTypeError(f"a whole number {wanted} is needed, not {text!r}")
        return int(text)

    return parse


def whole_or_auto(least: int, most: int) -> Callable[[str], int | str]:
    """Return a parser of "auto", which it returns, and of whole numbers."""
    number = whole(least, most)

    def parse(text: str) -> int | str:
        if text.lower() == AUTO:
            return AUTO
        try:
            return number(text)
        except argparse.ArgumentTypeError:
            raise argparse.ArgumentTypeError(
                f"auto or a whole number from {least} to {most} is needed, not {text!r}"
            ) from None

    return parse


def unless_auto(value: int | str) -> int | None:
    """Return the value of such an option if it is a number; None for "auto"."""
    return None if isinstance(value, str) else value


def size(text: str) -> int:
    """Parse a number of bytes: 0, 500MB (10^6), 4GiB (2^30), 4G as GiB."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"a size such as 4GiB, 500MB or 0 is needed, not {text!r}")
    number, unit, suffix = found[1], found[2].upper(), found[3].upper()
    base = 1000 if suffix == "B" else 1024
    return int(float(number) * base ** " KMGT".index(unit or " "))


def seconds(text: str) -> float:
    """Parse a finite number of seconds, at least 0."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"a number of seconds is needed, not {text!r}")
    return value


def positive_seconds(text: str) -> float:
    """Parse a finite number of seconds above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is needed, not {text!r}")
    return value


def _number(text: str) -> float:
    """Return a number, NaN for other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan
