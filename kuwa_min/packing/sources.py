"""Choose the sources that a file carries, and hash them.

A file carries kuwa_min, every backend that needs no library, its own backend, and of backends/
what those import: a module, or a folder with all that is below it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from kuwa_min.registry import PACKAGE, backend_infos

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (".py", ".html", ".css", ".js")  # by suffix: what an editor leaves behind never travels
PACKING = "kuwa_min/packing"  # makes files, and is in none
# A file without libraries leaves out FOR_LIBRARIES, but for IN_EVERY_FILE.
FOR_LIBRARIES = ("kuwa_min/bundle",)
IN_EVERY_FILE = (
    "kuwa_min/bundle/__init__.py",
    "kuwa_min/bundle/archive.py",
    "kuwa_min/bundle/commands.py",
    "kuwa_min/bundle/manifest.py",
    "kuwa_min/bundle/sbom.py",
    "kuwa_min/bundle/signed_kit.py",
    "kuwa_min/bundle/trust.py",
    "kuwa_min/bundle/versions.py",
)
ACTIVATE = "kuwa_min/bundle/activate.py"  # what the launcher imports first, where libraries travel
PROGRAM = "kuwa_min/cli.py"  # what it imports then


def sources(backend: str, *, with_payload: bool) -> list[Path]:
    """List the files that travel, in the order of their names."""
    light = [name for name, backend in backend_infos().items() if not backend.requires]
    core = [path for path in _shipped(ROOT / "kuwa_min") if _travels(path, with_payload)]
    init = ROOT / PACKAGE / "__init__.py"
    return sorted([*core, init, *backend_sources([backend, *light])], key=Path.as_posix)


def sources_sha256(backend: str, *, with_payload: bool) -> str:
    """Hash what `sha256sum` prints for the sources, named from the project's root and sorted."""
    total = hashlib.sha256()
    for source in sources(backend, with_payload=with_payload):
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        total.update(f"{digest}  {source.relative_to(ROOT).as_posix()}\n".encode())
    return total.hexdigest()


def backend_sources(names: Iterable[str]) -> list[Path]:
    """List the files of these backends and of what they import of backends/, to closure."""
    found: dict[str, list[Path]] = {}
    to_read = list(names)
    while to_read:
        name = to_read.pop()
        if name not in found:
            found[name] = _module_or_folder(name)
            to_read += [one for path in found[name] for one in _neighbours(path)]
    return [path for paths in found.values() for path in paths]


def imported_at_once(*sources: str) -> set[str]:
    """Return these sources and what their modules import at their top, to closure.

    All are paths from the project's root.
    """
    found: set[str] = set()
    to_read = list(sources)
    while to_read:
        name = to_read.pop()
        if name not in found:
            found.add(name)
            nodes = ast.parse((ROOT / name).read_bytes()).body
            to_read += [
                one for module in imported(ROOT / name, nodes) for one in module_files(module)
            ]
    return found


def imported(source: Path, nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the full names that these statements of a source import.

    `from a import b` gives a and a.b, since b may be a module.
    """
    package = source.parent.relative_to(ROOT).parts
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def module_files(module: str) -> Iterator[str]:
    """Yield the sources of ours that importing a module runs: its packages' and its own."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        path = "/".join(parts[:count])
        yield from (one for one in (f"{path}/__init__.py", f"{path}.py") if (ROOT / one).is_file())


def _neighbours(source: Path) -> set[str]:
    """Name what a source imports of backends/, functions' bodies included."""
    if source.suffix != ".py":
        return set()
    names = [name.split(".") for name in imported(source, ast.walk(ast.parse(source.read_bytes())))]
    return {parts[1] for parts in names if parts[0] == PACKAGE and len(parts) > 1}


def _module_or_folder(name: str) -> list[Path]:
    """List the files of one entry of backends/; none if that is only a name in __init__.py."""
    path = ROOT / PACKAGE / name
    if path.is_dir():
        return list(_shipped(path))
    module = path.with_name(f"{name}.py")
    return [module] if module.is_file() else []


def _shipped(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in SHIPPED and not is_hidden and path.is_file():
            yield path


def _travels(path: Path, with_payload: bool) -> bool:
    """Tell whether a file of kuwa_min is in a file with, or without, libraries."""
    if _is_below(path, PACKING):
        return False
    is_for_all = any(_is_below(path, one) for one in IN_EVERY_FILE)
    return with_payload or is_for_all or not any(_is_below(path, one) for one in FOR_LIBRARIES)


def _is_below(path: Path, place: str) -> bool:
    return path.is_relative_to(ROOT / place)
