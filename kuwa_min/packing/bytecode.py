"""Compile the libraries' modules that a backend imports, for a fast first start: --pyc.

To compile all of torch and transformers takes many times longer, and eight of nine modules are
never imported. Requires the target's Python, and a machine that can run the libraries.
"""

from __future__ import annotations

import ast
import json
import subprocess
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.wheel import PayloadFile

from .core_zip import run_python
from .sources import backend_sources

# Imports that a library defers until a model is loaded: as many modules again.
DEFERRED = {
    "transformers": (
        "import transformers.models.auto.modeling_auto",
        "import transformers.models.auto.tokenization_auto",
        "import transformers.modeling_utils",
    )
}
OPTIONAL = "try: {}\nexcept ImportError: pass"
IMPORT = Path(__file__).with_name("import_modules.py")
COMPILE = Path(__file__).with_name("compile_modules.py")


def compile_imported(
    backend: str, statements: Iterable[str], tree: Path, python: str
) -> list[PayloadFile]:
    """Return .pyc files for the modules that these imports of a backend load from a tree.

    They are in a folder beside the tree, which must exist until the payload is written.
    """
    try:
        output = run_python(python, [str(IMPORT), str(tree), "\n".join(statements)], tree)
    except subprocess.CalledProcessError:
        raise UsageError(
            f"--pyc imports what {backend} imports, and that failed here (see above); "
            "leave --pyc out, then the first start compiles it"
        ) from None
    paths = output.decode().rstrip().rpartition("\n")[2]
    folder = tree.with_name(f"{tree.name}-bytecode")
    folder.mkdir()
    made = run_python(python, [str(COMPILE), str(tree), str(folder)], tree, paths.encode())
    return [_deflated(Path(source), path) for path, source in sorted(json.loads(made).items())]


def import_statements(backend: str, requires: dict[str, str]) -> list[str]:
    """Return the statements by which a backend's sources import its libraries."""
    found = {f"import {name}" for name in requires}
    found.update(*(DEFERRED.get(name, ()) for name in requires))
    for source in backend_sources([backend]):
        tree = ast.parse(source.read_bytes())
        optional = set(_optional(tree))
        for node in ast.walk(tree):
            if _imports(node, requires):
                statement = ast.unparse(node)
                found.add(OPTIONAL.format(statement) if node in optional else statement)
    return sorted(found)


def _optional(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what may raise ImportError, because a handler is for it."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Try):
            continue
        caught = {ast.unparse(one.type) for one in node.handlers if one.type}
        if caught & {"ImportError", "ModuleNotFoundError"}:
            for statement in node.body:
                yield from ast.walk(statement)


def _imports(node: ast.AST, requires: dict[str, str]) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] in requires for alias in node.names)
    if isinstance(node, ast.ImportFrom) and not node.level:
        return (node.module or "").partition(".")[0] in requires
    return False


def _deflated(source: Path, path: str) -> PayloadFile:
    """Deflate a .pyc in place and return it as a file of the payload."""
    data = source.read_bytes()
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    stream = deflate.compress(data) + deflate.flush()
    source.write_bytes(stream)
    return PayloadFile(path, False, len(data), len(stream), 8, zlib.crc32(data), "", source, 0)
