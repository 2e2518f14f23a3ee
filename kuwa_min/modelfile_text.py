"""The text level of a Modelfile: quotes, comments, typed values, characters that are no Unicode.

Facts about the front end (Multi-Chat) that this module builds on:
- It trims lines and takes the quotes off itself: if the arguments begin with `"`, every `"` goes
  from their beginning and their end, however many there are. So what arrives is mostly without
  quotes, and white space at its ends stood inside of them.
- It joins a blank line to the command above. Then a closing quote stands before a line break, not
  at the end, and stays while the opening one is gone; so it does before a comment.
- Lines that begin with `#` never arrive, but ` #...` behind a value does.
"""

from __future__ import annotations

import re
from typing import Any

WORDS = {"true": True, "false": False, "none": None}
QUOTES = ('"""', '"', "'")
# Patterns are compiled at their first use: no start needs one of them.
QUOTED_VALUE = r"""(?s)("{3}|"|')(.*?)\1\s*(?:#.*)?"""  # a comment may follow
COMMENT = r"\A#(?=\s|\Z)|\s#"  # "#ff0000" is a value, "0.2 # low" is not
LONE_QUOTE = r'"(?:"")?(?=[ \t]*#|\s+\Z)'  # closes what the front end has opened
SURROGATE = "[\ud800-\udfff]"


def convert_value(value: str | None) -> Any:
    """Turn a parameter's text into int, else float, else true, false or none, else leave it."""
    if value is None:
        return None
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return WORDS.get(value.lower(), value)


def extract_text_from_quotes(text: str) -> str:
    """Trim text, and take quotes off if the same one opens and closes the whole."""
    text = text.strip()
    for quote in QUOTES:
        if len(text) >= 2 * len(quote) and text.startswith(quote) and text.endswith(quote):
            return text[len(quote) : -len(quote)]
    return text


def read_prompt(args: str) -> str:
    """Return the text of a prompt or template: every character of it but quotes around the whole.

    White space outside of the quotes goes with them. A closing quote alone, with a comment or
    nothing but white space behind it, is one whose opening quote the front end has taken.
    """
    text = extract_text_from_quotes(args)
    if text != args.strip():
        return text
    found = re.search(LONE_QUOTE, args)
    if found and args.count('"', 0, found.start()) % 2 == 0:
        return args[: found.start()]
    return args


def read_value(text: str) -> str:
    """Return a parameter's value without its quotes and without the comment behind it."""
    text = text.strip()
    quoted = re.fullmatch(QUOTED_VALUE, text)
    return quoted[2] if quoted else re.split(COMMENT, text, maxsplit=1)[0].rstrip()


def is_unicode(text: str) -> bool:
    """Tell whether text has no lone surrogate, which no UTF-8 can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def replace_surrogates(text: str) -> str:
    """Return text with U+FFFD in place of every lone surrogate, as JSON can write them."""
    return text if is_unicode(text) else re.sub(SURROGATE, "\ufffd", text)
