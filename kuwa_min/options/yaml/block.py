"""Parse a subset of YAML that suffices for files of options, where PyYAML is not installed.

Supported, with the results of PyYAML's safe_load: mappings, lists, flow collections as in JSON,
quoted and plain scalars, | and > block scalars, comments. Everything else (anchors, tags, several
documents, multi-line plain scalars, duplicate keys) is an error with its line's number.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

from .flow import Flow
from .scalar import MAX_KEY_LENGTH, QUOTED, read_scalar

UNPRINTABLE = re.compile(r"[^\t -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
MARKER = re.compile(r"(?:---|\.\.\.)(?: |$)")
REST = re.compile(r" *(?: #.*)?")  # allowed after a value
PLAIN_KEY = re.compile(r"(?P<key>(?:[^:#]|:(?! |$)|(?<! )#)+?) *:(?= |$)")
QUOTED_KEY = re.compile(rf"(?P<key>{QUOTED.pattern}) *:(?= |$)")
DASH = re.compile(r"-(?: +|$)")
BLOCK_TEXT = re.compile(r"[|>](?P<options>[-+]?[1-9]?|[1-9][-+])(?: +#.*| *)")
ADVICE = "only simple YAML is read without PyYAML; a .json file works everywhere"


class UnsupportedYaml(ValueError):
    """Report a line that is outside of the subset, and why."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line + 1}: {reason}; {ADVICE}")


def load(text: str) -> Any:
    """Return the value of a document; raises UnsupportedYaml."""
    for number, line in enumerate(text.split("\n")):
        if found := UNPRINTABLE.search(line):
            raise UnsupportedYaml(number, f"the character {found[0]!r} may not stand here")
    return _Document(text).read()


class _Document:
    """A recursive-descent parser; `_at` is the index of the next line."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._at = 0

    def read(self) -> Any:
        if self._has_more() and self._line.startswith("---") and REST.fullmatch(self._line, 3):
            self._at += 1
        for number, line in enumerate(self._lines[self._at :], self._at):
            if MARKER.match(line):
                raise UnsupportedYaml(number, "only one document is read")
        value = self._block() if self._has_more() else None
        if self._has_more():
            raise self._error("this line does not go on with what stands before it")
        return value

    # -- lines

    @property
    def _line(self) -> str:
        return self._lines[self._at]

    @property
    def _indent(self) -> int:
        return len(self._line) - len(self._line.lstrip(" "))

    def _has_more(self) -> bool:
        """Skip empty lines and comments; return whether a line is left."""
        while self._at < len(self._lines):
            text = self._line.lstrip(" ")
            if text and not text.startswith("#"):
                return True
            self._at += 1
        return False

    def _error(self, reason: str) -> UnsupportedYaml:
        return UnsupportedYaml(min(self._at, len(self._lines) - 1), reason)

    # -- blocks

    def _block(self) -> Any:
        """Parse the list, mapping or scalar at the current line."""
        indent, text = self._indent, self._line.lstrip(" ")
        if DASH.match(text):
            return self._list(indent)
        if _key(text):
            return self._mapping(indent)
        if text[0] in "|>":
            raise self._error(f"{text[0]} must stand behind a name, at the end of its line")
        return self._value(text, indent - 1)

    def _list(self, indent: int) -> list[Any]:
        values = []
        while self._has_more() and self._indent == indent:
            dash = DASH.match(self._line, indent)
            if dash is None:
                break
            rest = self._line[dash.end() :]
            if DASH.match(rest) or _key(rest):  # a block that begins behind the dash
                self._lines[self._at] = " " * dash.end() + rest
                values.append(self._block())
            else:
                values.append(self._value(rest, indent))
        return values

    def _mapping(self, indent: int) -> dict[Hashable, Any]:
        values: dict[Hashable, Any] = {}
        while self._has_more() and self._indent == indent:
            text = self._line[indent:]
            found = _key(text)
            if found is None or DASH.match(text) or len(found["key"]) > MAX_KEY_LENGTH:
                raise self._error("a name, a colon and a value are needed")
            key = self._scalar(found["key"])
            if key in values:
                raise self._error(f"{key!r} stands there twice")
            values[key] = self._value(text[found.end() :], indent, below=indent)
        return values

    def _value(self, text: str, indent: int, *, below: int | None = None) -> Any:
        """Parse the value after a key or dash, whose line has this indent.

        below: the indent of a list that may begin in the next line.
        """
        text = text.lstrip(" ")
        if not text or text.startswith("#"):
            return self._value_below(indent, below)
        if text[0] in "|>":
            return self._text(text, indent)
        if text[0] in "[{":
            return self._flow(len(self._line) - len(text))
        value = self._scalar(self._word(text))
        self._at += 1
        if self._has_more() and self._indent > indent:
            raise self._error("text that goes on in the next line needs | or quotes")
        return value

    def _value_below(self, indent: int, below: int | None) -> Any:
        self._at += 1
        if not self._has_more():
            return None
        if self._indent > indent:
            return self._block()
        if self._indent == below and DASH.match(self._line, below):
            return self._list(below)
        return None

    def _word(self, text: str) -> str:
        """Return a scalar without a trailing comment."""
        found = QUOTED.match(text)
        if not found:
            return text.partition(" #")[0].rstrip(" ")
        if not REST.fullmatch(text, found.end()):
            raise self._error("nothing may follow the closing quote")
        return found[0]

    def _scalar(self, text: str) -> Any:
        try:
            return read_scalar(text)
        except ValueError as error:
            raise self._error(str(error)) from None

    # -- block scalars

    def _text(self, header: str, indent: int) -> str:
        """Parse the block scalar below | or >."""
        found = BLOCK_TEXT.fullmatch(header)
        if found is None:
            raise self._error(f"nothing may follow the {header[0]} of a text")
        options = found["options"]
        self._at += 1
        lines = self._text_lines(indent, int(options.strip("-+") or 0))
        is_whole = self._at < len(self._lines)  # else the last line has no end
        ends = len(lines) if is_whole else len(lines) - 1
        while lines and not lines[-1]:
            lines.pop()
        text = "\n".join(lines) if header[0] == "|" else _fold(lines)
        if "+" in options:
            return text + "\n" * (ends - max(0, len(lines) - 1))
        return text + "\n" if lines and ends >= len(lines) and "-" not in options else text

    def _text_lines(self, indent: int, more: int) -> list[str]:
        """Return the lines of a block scalar, without their indent.

        more: the explicit indent beyond that of the header's line; 0: that of the first line.
        """
        start = self._at
        while self._at < len(self._lines) and not self._line.strip(" "):
            self._at += 1
        first = self._indent if self._at < len(self._lines) else 0
        own = indent + more if more else max(first, indent + 1)
        if any(len(line) > own for line in self._lines[start : self._at]) and not more:
            raise self._error("an empty line is longer than the text is indented")
        self._at = start
        while self._at < len(self._lines) and (not self._line[:own].strip(" ")):
            self._at += 1
        return [line[own:] for line in self._lines[start : self._at]]

    # -- flow collections

    def _flow(self, column: int) -> Any:
        """Parse the flow collection that begins in this column of the current line."""
        start = self._at
        flow = Flow("\n".join(self._lines[start:]), column)
        try:
            value = flow.value()
        except ValueError as error:
            self._at += flow.line
            raise self._error(str(error)) from None
        self._at += flow.line
        if not REST.fullmatch(flow.rest_of_line):
            raise self._error("nothing may follow the closing bracket")
        self._at += 1
        return value


def _key(text: str) -> re.Match[str] | None:
    """Match the key that a line of a mapping begins with, and its colon."""
    if text[:1] in ("[", "{", "#"):
        return None
    return (QUOTED_KEY if text[:1] in ("'", '"') else PLAIN_KEY).match(text)


def _fold(lines: list[str]) -> str:
    """Fold the lines of a > scalar: a line end becomes a space, except beside indented lines."""
    text, blanks, before = "", 0, " "
    for line in lines:
        if not line:
            blanks += 1
            continue
        if text and " " not in (before[0], line[0]):
            text += "\n" * blanks or " "
        else:
            text += "\n" * (blanks + bool(text))
        text, blanks, before = text + line, 0, line
    return text
