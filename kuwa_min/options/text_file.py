"""Read text files that people write, in whatever encoding their editor saved them.

UTF-8 with or without a byte order mark (BOM), UTF-16 and UTF-32 with one, UTF-16 without one where
it cannot be mistaken. Everything else is refused, not guessed: a text in a Windows code page, such
as Big5, would be read as other characters.
"""

from __future__ import annotations

import codecs

from kuwa_min.errors import UsageError

BOMS = (  # that of UTF-16 is the beginning of the one of UTF-32
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
ASCII_SHARE = 3  # 1/3 of the characters of a UTF-16 text without a BOM are ASCII, or more
BIG5 = "cp950"  # the code page of Windows in Taiwan
COMMON = range(0xA1, 0xC7)  # first bytes of Big5's common characters; Western letters are above
MAX_BYTES = 1 << 24  # of a file; the largest bundles of certificates have a tenth of that
REMEDY = "save it as UTF-8 (Notepad: Save as, Encoding: UTF-8)"


class InvalidTextFile(UsageError):
    """Report what is wrong with a file; the catcher puts the file's name before it."""


def read_text(path: str) -> str:
    r"""Return the text of a file, with line ends of \n; raises InvalidTextFile."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib takes long to load
            data = file.read(MAX_BYTES + 1)  # /dev/zero never ends
    except OSError as error:
        raise InvalidTextFile(f"cannot be read: {error.strerror or error}") from None
    except ValueError:  # a NUL character in the path
        raise InvalidTextFile("cannot be read: its name is no path") from None
    if len(data) > MAX_BYTES:
        raise InvalidTextFile(
            f"is longer than {MAX_BYTES:,} bytes: it is not the file that is meant"
        )
    return decode(data)


def decode(data: bytes) -> str:
    r"""Decode a file's bytes, with line ends of \n and without a BOM; raises InvalidTextFile."""
    encoding, start = encoding_of(data)
    try:
        text = data[start:].decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidTextFile(_reason(data, error)) from None
    if "\0" in text:
        raise InvalidTextFile("is not a text file: it holds NUL bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def encoding_of(data: bytes) -> tuple[str, int]:
    """Return the encoding that a text's first bytes state or show, and the length of its BOM."""
    for bom, encoding in BOMS:
        if data.startswith(bom):
            return encoding, len(bom)
    # NULs at even or at odd places: the one half of ASCII characters; few others have one (U+4E00).
    even, odd = (data[side::2].count(0) for side in (0, 1))
    fewer, more = sorted((even, odd))
    if more * 2 * ASCII_SHARE >= len(data) and fewer * 4 <= more > 0:
        return "utf-16-be" if even > odd else "utf-16-le", 0
    return "utf-8", 0


def _reason(data: bytes, error: UnicodeDecodeError) -> str:
    if error.encoding != "utf-8":
        return f"is damaged: it begins as {error.encoding.upper()} text, but is none; {REMEDY}"
    if error.reason == "unexpected end of data":
        return "is cut off: it ends within a character; copy it again"
    line = data.count(b"\n", 0, error.start) + 1
    is_big5 = data[error.start] in COMMON and _is(BIG5, data)
    found = "in Big5 (code page 950)" if is_big5 else "in another encoding"
    return f"is not UTF-8 text: line {line} seems to be {found}; {REMEDY}"


def _is(encoding: str, data: bytes) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
