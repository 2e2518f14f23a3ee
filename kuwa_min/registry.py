"""Know the backends of this build without importing them; load one."""

from __future__ import annotations

import importlib
import importlib.util
from typing import NamedTuple

from .errors import UsageError
from .executor import LLMExecutor

PACKAGE = "backends"


class Card(NamedTuple):
    """What a backend says of itself: name, one line, and the third-party modules it imports."""

    name: str
    summary: str
    requires: tuple[str, ...]


def names() -> list[str]:
    """Return the backends' names: the files of the package that do not begin with _."""
    import pkgutil

    package = importlib.import_module(PACKAGE)
    found = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return sorted(name for name in found if not name.startswith("_"))


def knows(name: str) -> bool:
    """Tell whether this build has a backend of this name, without looking at the others."""
    return name.isidentifier() and not name.startswith("_") and _is_here(f"{PACKAGE}.{name}")


def cards() -> dict[str, Card]:
    """Read every backend's card out of its source, as text."""
    return {name: _read_card(name) for name in names()}


def _read_card(name: str) -> Card:
    import ast

    tree = ast.parse(_source(name))
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    requires: tuple[str, ...] = ()
    for node in tree.body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if isinstance(target, ast.Name) and target.id == "REQUIRES":
            requires = tuple(ast.literal_eval(node.value))
    return Card(name, summary, requires)


def _source(name: str) -> str:
    spec = importlib.util.find_spec(f"{PACKAGE}.{name}")
    get_source = getattr(spec.loader, "get_source", None) if spec else None
    return (get_source(f"{PACKAGE}.{name}") or "") if get_source else ""


def load(name: str) -> type[LLMExecutor]:
    """Import a backend and return its executor; raises UsageError if a library is missing."""
    module = importlib.import_module(f"{PACKAGE}.{name}")
    missing = [one for one in getattr(module, "REQUIRES", ()) if not _is_here(one)]
    if missing:
        raise UsageError(
            f"{name} needs {', '.join(missing)}, which this Python does not have; "
            f"use the file kuwa-{name}.pyz, which `python build.py {name}` makes"
        )
    return executor_in(vars(module), module.__name__, module.__name__)


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def executor_in(namespace: dict[str, object], module: str, place: str) -> type[LLMExecutor]:
    """Return the last executor that a module defines; raises UsageError naming the place."""
    kinds = [
        kind
        for kind in namespace.values()
        if isinstance(kind, type) and issubclass(kind, LLMExecutor) and kind.__module__ == module
    ]
    if not kinds:
        raise UsageError(f"{place} defines no subclass of LLMExecutor")
    return kinds[-1]
