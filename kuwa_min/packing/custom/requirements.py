"""Read a requirements.txt as pip does, for what build.py can use of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

from kuwa_min.errors import UsageError
from kuwa_min.options.text_file import InvalidTextFile, read_text
from kuwa_min.packing.wheels.lock import parse_requirement
from kuwa_min.packing.wheels.resolve import OURS

OTHER_FILE = re.compile(r"(?:-r|--requirement)[\s=]*(.+)")
ADDRESS = re.compile(r"\w[\w+.-]+://")
ADVICE = (
    (re.compile(r"-c\b|--constraint"), "set UV_CONSTRAINT to that file"),
    (re.compile(r"-i\b|--index-url|--extra-index-url"), "set UV_DEFAULT_INDEX, and pip's own"),
    (re.compile(r"-f\b|--find-links|--no-index"), "give build.py --find_links or --no_index"),
    (re.compile(r"-e\b|--editable|[./\\]"), "build its wheel, and give --wheels DIR"),
    (ADDRESS, "build its wheel, and give --wheels DIR"),
    (
        re.compile(r"[\w.+-]+\.(whl|tar\.gz|zip)$"),
        "write its name, and give its folder by --wheels DIR",
    ),
    (re.compile(r".*--hash"), "leave the hashes out; --lock FILE pins them"),
    (re.compile(r"-"), "leave this option of pip out"),
)


def read_requirements(path: Path) -> list[str]:
    """Return the requirements of a file and of those it includes, each once; raises UsageError.

    kuwa-executor is left out, as what is built takes its place.
    """
    found = dict.fromkeys(_requirements(path, ()))
    return [one for one in found if canonicalize_name(parse_requirement(one).name) not in OURS]


def _requirements(path: Path, above: tuple[Path, ...]) -> Iterator[str]:
    if path.resolve() in above:
        raise UsageError(f"{path} includes itself")
    for number, line in _lines(path):
        other = OTHER_FILE.fullmatch(line)
        place = f"{path}: line {number}"
        if other and not ADDRESS.match(other[1]):
            name = _unquoted(other[1], place)
            yield from _requirements(path.parent / name, (*above, path.resolve()))
            continue
        for pattern, advice in ADVICE:
            if pattern.match(line):
                raise UsageError(f"{place}: {line!r} is not followed here: {advice}")
        try:
            requirement = parse_requirement(line)
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from None
        if requirement.url:
            raise UsageError(f"{place}: {line!r}: fetch that wheel, and give --wheels DIR")
        yield str(requirement)


def _unquoted(text: str, place: str) -> str:
    """Return a file's name that may stand in quotes, as pip reads it; spaces need none here."""
    try:
        return " ".join(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{place}: {text}: {error}") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line, continued ones joined, without comments."""
    try:
        text = read_text(str(path))
    except InvalidTextFile as error:
        raise UsageError(f"{path} {error}") from None
    number, pending = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        pending += line.removesuffix("\\")
        if not line.endswith("\\"):
            yield from _line(number, pending)
            pending = ""
    yield from _line(number, pending)


def _line(number: int, line: str) -> Iterator[tuple[int, str]]:
    bare = re.sub(r"(^|\s)#.*", "", line).strip()
    if bare:
        yield number, bare
