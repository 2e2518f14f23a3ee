"""Check, without running it, that a custom executor will find all that it imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kuwa_min import compat
from kuwa_min.errors import UsageError

from .executor_files import Executor
from .statements import Import, imports, module_paths, parse

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

DROP_IN = Path(compat.FOLDER)
OURS = "kuwa_min"
# kuwa is a namespace package, which a regular one would hide.
HIDING = ("kuwa/__init__.py", "kuwa/executor/", "kuwa_min/", "kuwa_min.py", "kuwa.py")
BESIDE = "give Kuwa's folder {} by --with_files, and its requirements by --requires"
LIBRARIES = {  # of Kuwa, published as source in its repository only
    "kuwa.client": BESIDE.format("src/library/client/src/kuwa"),
    "kuwa.rag": BESIDE.format("src/library/rag/src/kuwa"),
}


def provided(paths: Iterable[str]) -> set[str]:
    """Return the names, to two levels, that files of site-packages can be imported as."""
    found = set()
    for path in paths:
        parts = path.split("/")
        if not parts[0].endswith((".dist-info", ".pth")):
            names = [part.partition(".")[0] for part in parts[:2]]
            found |= {names[0], ".".join(names)}
    return found


def check_shadows(executor: Executor, paths: Iterable[str]) -> None:
    """Raise UsageError if files of the executor or of its libraries would hide ours."""
    for path in (*executor.files, *paths):
        if path.startswith(HIDING):
            raise UsageError(f"{path} would hide what kuwa-min has by that name: leave it out")


def check_imports(executor: Executor, names: Collection[str], log_step: LogStep) -> None:
    """Raise UsageError for what importing an executor would not find; log what only parts need.

    names are those that the libraries provide, as of provided().
    """
    fatal: dict[str, str] = {}  # what is missing and what to do -> where it is imported first
    others: dict[str, str] = {}
    for source, one in _reached(executor):
        reason = _missing(one, executor, names)
        if reason:
            (fatal if one.at_once else others).setdefault(reason, f"{source}:{one.line}")
    for reason, place in others.items():
        if reason not in fatal:
            log_step(f"warning: {place} imports {reason}")
    if fatal:
        raise UsageError("; ".join(f"{place} imports {reason}" for reason, place in fatal.items()))


def library_imports(executor: Executor) -> list[str]:
    """Return the statements by which an executor imports libraries at its start."""
    found = set()
    for _, one in _reached(executor):
        top = one.module.partition(".")[0]
        if one.at_once and not (_is_known(top) or top == "kuwa" or _is_beside(top, executor)):
            names = ", ".join(one.names)
            found.add(f"from {one.module} import {names}" if names else f"import {one.module}")
    return sorted(found)


def _reached(executor: Executor) -> Iterator[tuple[str, Import]]:
    """Yield the imports of an executor's sources that its mains reach."""
    seen, to_read = set[str](), [*executor.mains.values()]
    while to_read:
        path = to_read.pop(0)
        if path in seen:
            continue
        seen.add(path)
        for one in imports(parse(executor.files[path]), Path(path).parent.parts):
            yield path, one
            to_read += [name for name in module_paths(one) if name in executor.files]


def _missing(one: Import, executor: Executor, names: Collection[str]) -> str:
    """Return what is not found, and what to do; "" if all is."""
    parts = one.module.split(".")
    top, two = parts[0], ".".join(parts[:2])
    if two == "kuwa.executor":
        return _missing_in_drop_in(one)
    if top == "kuwa":
        wanted = [two] if len(parts) > 1 else [f"kuwa.{name}" for name in one.names]
        gone = [name for name in wanted if not (name in names or _is_beside(name, executor))]
        gone = [name for name in gone if name != "kuwa.executor"]
        advice = LIBRARIES.get(gone[0], "kuwa.executor is all of Kuwa that is here") if gone else ""
        return f"{gone[0]}, which this file lacks: {advice}" if gone else ""
    if _is_known(top) or top in names or _is_beside(top, executor):
        return ""
    return f"{top}, which no requirement brings: add its package to the file of --requires"


def _is_known(top: str) -> bool:
    """Tell whether a name is Python's or ours; "" is of a relative import at the top."""
    return top in sys.stdlib_module_names or top in (OURS, "")


def _is_beside(name: str, executor: Executor) -> bool:
    path = name.replace(".", "/")
    return any(one == f"{path}.py" or one.startswith(f"{path}/") for one in executor.files)


def _missing_in_drop_in(one: Import) -> str:
    found = next((path for path in reversed([*module_paths(one._replace(names=()))])), "")
    source = DROP_IN / found
    source = source if source.is_file() else source.with_suffix("") / "__init__.py"
    if not source.is_file():
        return f"{one.module}, which is not in kuwa-min: docs/custom-executors.md says what is"
    bound = {*_bound(parse(source)), *(path.stem for path in source.parent.glob("*.py")), "*"}
    gone = [name for name in one.names if name not in bound]
    return f"{gone[0]} of {one.module}, which kuwa-min lacks: do without it" if gone else ""


def _bound(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module's statements bind."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
