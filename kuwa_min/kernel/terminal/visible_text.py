"""Make text harmless for a terminal: what a model writes must not control it.

Escape sequences can set titles, write to the clipboard, overwrite lines or answer as the keyboard
would; controls of writing direction can show another text than the one that is copied.
"""

from __future__ import annotations

import re
import sys

# All control characters but newline and tab; separators of lines; controls of direction; surrogates
UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""Return text whose control characters are spelled out, as \x1b; carriage returns go."""
    return UNSAFE.sub(_spelled, text)


def tolerate_encodings() -> None:
    """Replace what the terminal's encoding lacks, or what is no text, instead of failing."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _spelled(found: re.Match[str]) -> str:
    number = ord(found[0])
    if found[0] == "\r":
        return ""
    return f"\\u{number:04x}" if number > 0xFF else f"\\x{number:02x}"
