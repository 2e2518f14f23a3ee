"""Parse forms, urlencoded or multipart, in time and memory proportional to the body's size.

urllib.parse keeps an object for each escape, 80 bytes for 3: too much for Chinese text, all of
which is escaped. Here binascii does the work: its quoted-printable differs from percent-encoding in
the escape character, and in sequences that `_unescape` never hands to it. Text that was not escaped
is decoded as UTF-8 together with what was.
"""

from __future__ import annotations

import binascii
import re

from kuwa_min.chat.catalog import MALFORMED_FORM, TOO_MANY_FIELDS
from kuwa_min.errors import HTTPError

FORM_FIELDS = 100  # at most; more are refused
BLOCK = 64 << 10  # bytes that are unescaped at once
STRAY = 1000  # escape characters without an escape in a block, which cost much more time
# Patterns are compiled at their first use: a start needs none of them.
BOUNDARY = r'(?i)boundary="?([^";,]{1,200})"?'
FIELD_NAME = r'\bname="?([^";\r\n]{1,200})"?'
STRAY_ESCAPE = rb"%(?![0-9A-Fa-f]{2})"

Body = bytes | bytearray


def parse_form(body: Body, content_type: str) -> dict[str, str]:
    """Parse a form as its body shows, not content_type alone; of equal fields, the last one counts.

    Raises HTTPError for too many fields, or if most percent signs begin no escape.
    """
    boundary = re.search(BOUNDARY, content_type)
    if boundary:
        mark = b"--" + boundary[1].rstrip().encode("latin-1")
        blank = re.match(rb"\s*", body)
        start = blank.end() if blank else 0
        if body.startswith(mark, start):
            return _parse_multipart(body, start + len(mark), b"\r\n" + mark)
    return _parse_urlencoded(body) if b"=" in body else {}


def _parse_multipart(body: Body, start: int, delimiter: bytes) -> dict[str, str]:
    """Parse the parts of a body; start: of the first one."""
    _limit_fields(body.count(delimiter, start))
    form = {}
    while start < len(body):
        end = _find(body, delimiter, start, len(body))
        blank_line = body.find(b"\r\n\r\n", start, end)
        if blank_line >= 0 and (name := re.search(FIELD_NAME, _text(body, start, blank_line))):
            form[name[1]] = _text(body, blank_line + 4, end)
        start = end + len(delimiter)
    return form


def _parse_urlencoded(body: Body) -> dict[str, str]:
    _limit_fields(body.count(b"&") + 1)
    form, start = {}, 0
    while start < len(body):
        end = _find(body, b"&", start, len(body))
        if end > start:
            equals = _find(body, b"=", start, end)
            form[_unquote(body, start, equals)] = _unquote(body, equals + 1, end)
        start = end + 1
    return form


def _find(body: Body, mark: bytes, start: int, end: int) -> int:
    """Return the place of a mark, or the end if there is none before it."""
    at = body.find(mark, start, end)
    return end if at < 0 else at


def _limit_fields(count: int) -> None:
    if count > FORM_FIELDS:
        raise HTTPError(400, TOO_MANY_FIELDS.format(FORM_FIELDS))


def _unquote(body: Body, start: int, end: int) -> str:
    """Return a name or value as text; raises HTTPError, see parse_form."""
    if body.find(b"%", start, end) < 0 and body.find(b"+", start, end) < 0:
        return _text(body, start, end)
    data = bytearray()
    while start < end:
        stop = min(start + BLOCK, end)
        if stop < end and (cut := body.rfind(b"%", stop - 2, stop)) >= 0:
            stop = cut  # not within an escape
        data += _unescape(bytes(body[start:stop]))
        start = stop
    return data.decode("utf-8", "replace")


def _unescape(block: bytes) -> bytes:
    """Decode `+` and the escapes of a block that begins and ends between escapes."""
    block, strays = re.subn(STRAY_ESCAPE, b"%25", block.replace(b"+", b" "))
    if strays > STRAY:
        raise HTTPError(400, MALFORMED_FORM)
    return binascii.a2b_qp(block.replace(b"=", b"%3D").replace(b"%", b"="))


def _text(body: Body, start: int, end: int) -> str:
    return str(memoryview(body)[start:end], "utf-8", "replace")
