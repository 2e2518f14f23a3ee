"""Parse the JSON of clients, however large it is, to a bounded number of objects.

Two bytes of JSON, `{}` and `,` each time, may become a hundred of memory.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_VALUES = 200_000  # lists, objects, names and other values, approximately
MAX_DIGITS = 1000  # of a whole number: Python before 3.10.7 takes quadratic time for more
STRING = '"[^"]*"'  # once escapes are removed; compiled at its first use


class TooManyValues(ValueError):
    """Report JSON with more than MAX_VALUES."""


def loads(text: str) -> Any:
    """Parse JSON text; raises ValueError, TooManyValues or RecursionError."""
    if _count(text) > MAX_VALUES and _count(_without_strings(text)) > MAX_VALUES:
        raise TooManyValues
    return json.loads(text, parse_int=whole)


def whole(digits: str) -> int:
    """Parse a whole number; raises ValueError also for one of more than MAX_DIGITS."""
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number is too long")
    return int(digits)


def _count(text: str) -> int:
    """Return how many values begin in a text; those in its strings are counted, too."""
    return text.count(",") + text.count("[") + text.count("{")


def _without_strings(text: str) -> str:
    """Remove strings: an escaped backslash ends none, and an escaped quote is no end."""
    text = text.replace("\\\\", "").replace('\\"', "")
    if text.count('"') > 4 * MAX_VALUES:  # two for a name, two for its value
        raise TooManyValues
    return re.sub(STRING, "", text)
