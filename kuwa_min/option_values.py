"""Convert values of files, Modelfiles and the command line to the types of options."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from . import sentences
from .sentences import Sentence

Kind = type[int] | type[float] | type[str] | type[bool] | type[list[str]]
MAX_TEXTS = 64  # of a list: each stop word is searched in every piece of text
MAX_TEXT_LENGTH = 1000  # characters of each


def convert(kind: Kind, value: Any) -> Any:
    """Convert a value to the type of an option.

    Raises ValueError with a Sentence that says what it must be.
    """
    try:
        converted = _CONVERTERS[kind](value)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(_WANTED[kind]) from None
    if isinstance(converted, float) and not math.isfinite(converted):
        raise ValueError(sentences.MUST_BE_FINITE)
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
    """Convert to a list of texts: a list, a JSON list as text, or a single text."""
    value = from_json(value)
    texts = [_text(one) for one in (value if isinstance(value, (list, tuple)) else [value])]
    if len(texts) > MAX_TEXTS or any(len(text) > MAX_TEXT_LENGTH for text in texts):
        raise ValueError
    return [text for text in texts if text]


def from_json(value: Any) -> Any:
    """Parse text that is a JSON list or object, as in a Modelfile; other values are unchanged."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


_TRUTHS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_CONVERTERS: dict[type, Callable[[Any], Any]] = {
    bool: _truth,
    int: _whole,
    float: _real,
    str: _text,
    list: _texts,
}
_WANTED: dict[type, Sentence] = {
    bool: sentences.MUST_BE_TRUTH,
    int: sentences.MUST_BE_WHOLE,
    float: sentences.MUST_BE_NUMBER,
    str: sentences.MUST_BE_TEXT,
    list: sentences.MUST_BE_TEXTS.format(MAX_TEXTS, MAX_TEXT_LENGTH),
}
