"""Imports as sources state them, without running any."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.custom.statements import Import, imports, module_paths, parse

SOURCE = """
import os, a.b as c
from src.deep import one, two
from . import near
from ..up import far
if TYPE_CHECKING:
    import types_only
if sys.platform == "win32":
    import maybe
try:
    import guarded
except ImportError:
    import instead
class Some:
    import of_class
def later():
    import of_function
with suppress(ImportError):
    import suppressed
if typing.TYPE_CHECKING:
    import types_only
else:
    import real
if not TYPE_CHECKING:
    import real_too
"""
FOUND = (
    Import("os", (), 2, True),
    Import("a.b", (), 2, True),
    Import("src.deep", ("one", "two"), 3, True),
    Import("pack.inner", ("near",), 4, True),
    Import("pack.up", ("far",), 5, True),
    Import("maybe", (), 9, False),
    Import("guarded", (), 11, False),
    Import("instead", (), 13, False),
    Import("of_class", (), 15, True),
    Import("of_function", (), 17, False),
    Import("suppressed", (), 19, False),
    Import("real", (), 23, True),
    Import("real_too", (), 25, True),
)


def test_each_import_says_whether_the_module_needs_it() -> None:
    """What stands in a function, in try or under a condition is no need of every import."""
    assert tuple(imports(ast.parse(SOURCE), ("pack", "inner"))) == FOUND


def test_an_import_may_run_packages_and_modules() -> None:
    """`from a import b`, where b may be either."""
    assert [*module_paths(Import("a", ("b",), 1, True))] == [
        *("a/__init__.py", "a.py", "a/__init__.py", "a.py", "a/b/__init__.py", "a/b.py")
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"def (", "line 1: "),
        (b"a\0\0b", "is no Python source: it holds NUL bytes"),
        ("import os".encode("utf-16"), "is UTF-16-LE text: save it as UTF-8"),
    ],
)
def test_a_source_that_is_none_is_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    """With its path and line."""
    (tmp_path / "bad.py").write_bytes(data)
    with pytest.raises(UsageError, match=rf"bad\.py.*{words}"):
        parse(tmp_path / "bad.py")
