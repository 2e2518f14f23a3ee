"""The backends of this build: find and describe them without an import; load one."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import TYPE_CHECKING, NamedTuple

from .errors import KuwaError, StartError, UsageError, traceback_line
from .executor import LLMExecutor

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PACKAGE = "backends"
GROUP = "kuwa_min.backends"  # the entry points of packages that bring backends
KINDS = ("[Tool]", "[Cloud model]", "[On-premises model]")  # the order of Kuwa's list
REQUIREMENT = re.compile(r"([\w.-]+)(?:>=([\d.]+))?")  # of PEP 508, as much as backends use


class BackendInfo(NamedTuple):
    """A backend as its source describes it: name, one line, and the libraries it imports.

    requires: the name to import -> the requirement, {"PIL": "pillow>=11.0"}.
    """

    name: str
    summary: str
    requires: dict[str, str]


def names() -> list[str]:
    """Return the backends' names: the package's modules whose names do not begin with _."""
    import pkgutil

    package = importlib.import_module(PACKAGE)
    found = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return sorted(name for name in found if not name.startswith("_"))


def has(name: str) -> bool:
    """Tell whether this build has a backend of this name; does not list the others."""
    return name.isidentifier() and not name.startswith("_") and _is_here(f"{PACKAGE}.{name}")


def backend_infos() -> dict[str, BackendInfo]:
    """Read the docstring and REQUIRES of each backend's source; tools first, then models."""
    found = sorted((_read_info(name) for name in names()), key=_rank)
    return {info.name: info for info in found}


def _rank(info: BackendInfo) -> tuple[int, str]:
    ranks = [rank for rank, kind in enumerate(KINDS) if info.summary.startswith(kind)]
    return ranks[0] if ranks else len(KINDS), info.summary


def _read_info(name: str) -> BackendInfo:
    import ast

    tree = ast.parse(_source(name))
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    requires: dict[str, str] = {}
    for node in tree.body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if isinstance(target, ast.Name) and target.id == "REQUIRES":
            requires = dict(ast.literal_eval(node.value))
    return BackendInfo(name, summary, requires)


def _source(name: str) -> str:
    spec = importlib.util.find_spec(f"{PACKAGE}.{name}")
    get_source = getattr(spec.loader, "get_source", None) if spec else None
    return (get_source(f"{PACKAGE}.{name}") or "") if get_source else ""


def load(name: str) -> type[LLMExecutor]:
    """Import a backend and return its class; setup() imports its libraries later."""
    module = importlib.import_module(f"{PACKAGE}.{name}")
    return executor_in(vars(module), module.__name__, module.__name__)


def check_libraries(name: str) -> None:
    """Raise UsageError if a library of a backend is missing or too old; imports none of them."""
    module = importlib.import_module(f"{PACKAGE}.{name}")
    requires: dict[str, str] = getattr(module, "REQUIRES", {})
    advice = f"use the file kuwa-{name}.pyz, which `python build.py {name}` makes"
    missing = [one for one in requires if not _is_here(one)]
    if missing:
        raise UsageError(
            f"{name} needs {', '.join(missing)}, which this Python does not have; {advice}"
        )
    for requirement in requires.values():
        here = _too_old(requirement)
        if here:
            raise UsageError(f"{name} needs {requirement}; this Python has {here}; {advice}")


def _too_old(requirement: str) -> str:
    """Return name and version of the installed library if it is too old, else ""."""
    import importlib.metadata

    from kuwa_min.bundle.versions import version_numbers

    parts = REQUIREMENT.fullmatch(requirement.replace(" ", ""))
    if parts is None or parts[2] is None:
        return ""
    try:
        version = importlib.metadata.version(parts[1])
    except importlib.metadata.PackageNotFoundError:
        return ""  # importable, without metadata
    too_old = version_numbers(version) < version_numbers(parts[2])
    return f"{parts[1]} {version}" if too_old else ""


# -- backends of other packages


def find_plugin(name: str) -> EntryPoint | None:
    """Return the entry point of a backend that another package brings; imports nothing of it.

    Raises UsageError if two packages bring it.
    """
    found = _entry_points(name)
    if len(found) > 1:
        packages = ", ".join(sorted(map(_package, found)))
        raise UsageError(f"several packages bring a backend {name}: {packages}; remove one")
    return found[0] if found else None


def plugin_infos() -> dict[str, BackendInfo]:
    """Describe what other packages bring by the summaries of these; imports none of them."""
    own = names()
    return {one.name: _plugin_info(one) for one in _entry_points() if one.name not in own}


def hidden_plugins() -> list[str]:
    """Return a line for each backend of another package that is named like one of ours."""
    own = names()
    return [
        f"{one.name} of {_package(one)} has no effect: a backend of ours has that name"
        for one in _entry_points()
        if one.name in own
    ]


def _plugin_info(one: EntryPoint) -> BackendInfo:
    summary = (one.dist.metadata["Summary"] if one.dist else "") or _package(one)
    return BackendInfo(one.name, str(summary), {})


def load_plugin(one: EntryPoint) -> type[LLMExecutor]:
    """Import the executor of an entry point; raises KuwaError with one line if that fails."""
    place = f"{one.name} of {_package(one)} ({one.value})"
    try:
        found = one.load()
    except KuwaError:
        raise
    except SyntaxError as error:
        where = f"{error.filename}: line {error.lineno}"
        raise StartError(f"{place} cannot be loaded: {where}: {error.msg}") from None
    except Exception as error:  # noqa: BLE001 - the code of another package
        line = traceback_line(error, with_message=True)
        raise StartError(f"{place} cannot be loaded: {line}") from None
    if isinstance(found, type) and issubclass(found, LLMExecutor):
        return found
    return executor_in(getattr(found, "__dict__", {}), one.module, place)


def _entry_points(name: str = "") -> list[EntryPoint]:
    from importlib import metadata  # tens of milliseconds, for what is not of ours only

    return [one for one in metadata.entry_points(group=GROUP) if name in ("", one.name)]


def _package(one: EntryPoint) -> str:
    return f"{one.dist.name} {one.dist.version}" if one.dist else one.module


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def executor_in(namespace: dict[str, object], module: str, place: str) -> type[LLMExecutor]:
    """Return the last LLMExecutor subclass that a module defines; raises UsageError without one."""
    kinds = [
        kind
        for kind in namespace.values()
        if isinstance(kind, type) and issubclass(kind, LLMExecutor) and kind.__module__ == module
    ]
    if not kinds:
        raise UsageError(f"{place} defines no subclass of LLMExecutor")
    return kinds[-1]
