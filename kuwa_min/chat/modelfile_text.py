"""Parse the text level of a Modelfile: quotes, comments, typed values, lone surrogates.

Facts about the front end (Multi-Chat) that this module builds on:
- It trims lines and strips the quotes itself: if the arguments begin with `"`, all `"` at their
  beginning and end are removed. So most arguments arrive without quotes, and white space at their
  ends was inside of the quotes.
- It joins a blank line to the command above. A closing quote then precedes a line break instead of
  ending the text: it is kept while the opening one is removed. The same happens before a comment.
- Lines that begin with `#` never arrive, but ` #...` after a value does.
"""

from __future__ import annotations

import json
import re
from typing import Any

from . import bounded_json
from .bounded_json import whole

WORDS = {"true": True, "false": False, "none": None}
QUOTES = ('"""', '"', "'")
# Patterns are compiled at their first use: none is needed at the start.
QUOTED_VALUE = r"""(?s)("{3}|"|')(.*?)\1\s*(?:#.*)?"""  # a comment may follow
COMMENT = r"\A#(?=\s|\Z)|\s#"  # "#ff0000" is a value, "0.2 # low" is not
LONE_QUOTE = r'"(?:"")?(?=[ \t]*#|\s+\Z)'  # closes what the front end has opened
SURROGATE = "[\ud800-\udfff]"


def convert_value(value: str | None) -> Any:
    """Convert a parameter's text to int, float, True, False or None; other text is unchanged."""
    if value is None:
        return None
    for kind in (whole, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return WORDS.get(value.lower(), value)


def extract_text_from_quotes(text: str) -> str:
    """Strip white space, then the quotes if the same one opens and closes the whole text."""
    text = text.strip()
    for quote in QUOTES:
        if len(text) >= 2 * len(quote) and text.startswith(quote) and text.endswith(quote):
            return text[len(quote) : -len(quote)]
    return text


def read_prompt(args: str) -> str:
    """Return the text of a prompt or template, without quotes around the whole.

    White space outside of the quotes is dropped with them. A lone closing quote, followed by a
    comment or by white space only, is taken for one whose opening quote the front end has removed.
    """
    text = extract_text_from_quotes(args)
    if text != args.strip():
        return text
    found = re.search(LONE_QUOTE, args)
    if found and args.count('"', 0, found.start()) % 2 == 0:
        return args[: found.start()]
    return args


def read_value(text: str) -> str:
    """Return a parameter's value without its quotes and without a trailing comment.

    A JSON object is the value as a whole, with what looks like a comment in its texts.
    """
    text = text.strip()
    if text.startswith("{") and text.endswith("}") and _is_json(text):
        return text
    quoted = re.fullmatch(QUOTED_VALUE, text)
    return quoted[2] if quoted else re.split(COMMENT, text)[0].rstrip()


def _is_json(text: str) -> bool:
    try:
        bounded_json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def is_unicode(text: str) -> bool:
    """Tell whether text can be encoded as UTF-8, that is, has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON may contain, by U+FFFD."""
    return text if is_unicode(text) else re.sub(SURROGATE, "\ufffd", text)


def read_json(text: str) -> Any:
    """Parse JSON as `bounded_json.loads` does; replace lone surrogates, also in names."""
    found = bounded_json.loads(text)
    if "\\ud" not in text.lower():
        return found
    again = json.dumps(found, ensure_ascii=False)
    return found if is_unicode(again) else json.loads(replace_surrogates(again))
