"""Parse YAML 1.1 scalars, quoted and plain, as PyYAML's safe_load does.

Unsupported ones, such as dates and base-60 numbers, raise ValueError.
"""

from __future__ import annotations

import re

QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"' + r"|'(?:[^'\n]|'')*'")
# Plain text must not begin with an indicator of something else, nor contain one that ends it.
PLAIN = re.compile(r"(?![,\[\]{}#&*!|>'\"%@`]|[-?:](?: |$))(?!.*(?::(?: |$)| #|\t)).*")
MAX_KEY_LENGTH = 1000  # characters; PyYAML's limit is slightly higher
ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
ESCAPED = {
    "0": "\0",
    "a": "\a",
    "b": "\b",
    "t": "\t",
    "n": "\n",
    "v": "\v",
    "f": "\f",
    "r": "\r",
    "e": "\x1b",
    " ": " ",
    '"': '"',
    "\\": "\\",
    "/": "/",
    "N": "\x85",
    "_": "\xa0",
    "L": "\u2028",
    "P": "\u2029",
    "\t": "\t",
}
WORDS: dict[str, bool | None] = {
    spelling: value
    for words, value in (("yes true on", True), ("no false off", False), ("null", None))
    for word in words.split()
    for spelling in (word, word.capitalize(), word.upper())
} | {"": None, "~": None}
INTEGER = re.compile(
    r"(?P<sign>[-+]?)(?:0b(?P<binary>[01_]+)|0x(?P<hex>[0-9a-fA-F_]+)|0(?P<octal>[0-7_]+)"
    r"|(?P<decimal>0|[1-9][0-9_]*))"
)
BASES = {"binary": 2, "octal": 8, "decimal": 10, "hex": 16}
FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
)
SPECIAL_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
REFUSED = re.compile(
    r"[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?(?:[Tt ].*)?"  # a date
    r"|[-+]?[0-9][0-9_]*(?::[0-9]+)+(?:\.[0-9_]*)?"  # a number of base 60
    r"|=|<<"
)


def read_scalar(text: str) -> str | float | bool | None:
    """Return the value of a quoted or plain scalar; raises ValueError."""
    if QUOTED.fullmatch(text):
        return _unquote(text)
    if not PLAIN.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not understood, or needs quotes")
    return _resolve(text)


def _unquote(text: str) -> str:
    if text[0] == "'":
        return text[1:-1].replace("''", "'")
    return ESCAPE.sub(_character, text[1:-1])


def _character(match: re.Match[str]) -> str:
    *codes, letter = match.groups()
    if letter is not None:
        if letter not in ESCAPED:
            raise ValueError(f"\\{letter} is no character")
        return ESCAPED[letter]
    code = int(next(filter(None, codes)), 16)
    if 0xD800 <= code < 0xE000:
        raise ValueError(f"{match[0]} is half a character")
    return chr(code)


def _resolve(word: str) -> str | float | bool | None:
    if word in WORDS:
        return WORDS[word]
    if REFUSED.fullmatch(word):
        raise ValueError(f"{word[:40]!r} must stand in quotes")
    if found := INTEGER.fullmatch(word):
        return _integer(found)
    if FLOAT.fullmatch(word):
        return float(word.replace("_", ""))
    if SPECIAL_FLOAT.fullmatch(word):
        return float(word.replace(".", "").lower())
    return word


def _integer(match: re.Match[str]) -> int:
    base = next(name for name in BASES if match[name] is not None)
    value = int(match[base].replace("_", "") or "0", BASES[base])
    return -value if match["sign"] == "-" else value
