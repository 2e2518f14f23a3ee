"""Read what sources import, without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from kuwa_min.errors import UsageError
from kuwa_min.options.text_file import REMEDY, encoding_of


class Import(NamedTuple):
    """One import of a source."""

    module: str  # its full name: "src.text_buffer"
    names: tuple[str, ...]  # what `from module import a, b` takes out of it
    line: int
    at_once: bool  # whether importing the source fails without it


def parse(source: Path) -> ast.Module:
    """Parse a source; raises UsageError."""
    data = source.read_bytes()
    try:
        return ast.parse(data)
    except (SyntaxError, ValueError) as error:
        encoding, _ = encoding_of(data)
        if encoding != "utf-8":
            raise UsageError(f"{source} is {encoding.upper()} text: {REMEDY}") from None
        if not isinstance(error, SyntaxError) or b"\0" in data:
            raise UsageError(f"{source} is no Python source: it holds NUL bytes") from None
        raise UsageError(f"{source}: line {error.lineno or 0}: {error.msg}") from None


def imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[Import]:
    """Yield the imports of a module of this package, but those for type checkers alone."""
    for node, at_once in _statements(tree, at_once=True):
        if isinstance(node, ast.Import):
            yield from (Import(one.name, (), node.lineno, at_once) for one in node.names)
        else:
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = tuple(one.name for one in node.names)
            yield Import(module, names, node.lineno, at_once)


def _statements(
    node: ast.AST, *, at_once: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield import statements, and whether they run whenever the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, at_once
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            is_else = not ast.unparse(child.test).startswith("not ")
            body = child.orelse if is_else else child.body
            yield from _statements(ast.Module(body, []), at_once=at_once)
        else:
            is_sure = isinstance(child, ast.ClassDef)
            yield from _statements(child, at_once=at_once and is_sure)


def module_paths(one: Import) -> Iterator[str]:
    """Yield the paths, from the root of imports, of what an import may run, packages included.

    `from a import b` may run a/__init__.py, a.py, a/b/__init__.py and a/b.py.
    """
    for name in [one.module, *(f"{one.module}.{name}" for name in one.names)]:
        parts = PurePosixPath(*name.split("."))
        for path in [*reversed(parts.parents[:-1]), parts]:  # without "."
            yield from (f"{path}/__init__.py", f"{path}.py")
