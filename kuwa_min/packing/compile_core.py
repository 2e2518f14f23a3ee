"""Compile a file's own sources: run by the Python that the file is for, in the staged folder.

Argument: the launcher's source, which gets a .pyc beside it. Standard input: a JSON object of
blocks, each a list of sources. Their code goes into "<block>-<magic>", which kuwa_min.launch
reads. All paths are relative to this folder.

What no run needs is left out: annotations, `if TYPE_CHECKING`, and docstrings but those of the
backends' classes, which are their --help. Line numbers stay. The same sources give the same bytes
only with a fixed hash seed and relative paths.
"""

from __future__ import annotations
import __future__

import ast
import importlib.util
import json
import marshal
import sys
import zlib
from pathlib import Path
from types import CodeType

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MAGIC = importlib.util.MAGIC_NUMBER
FLAGS = __future__.annotations.compiler_flag
UNCHECKED_HASH = (1).to_bytes(4, "little")  # PEP 552: never compared with its source


def main(launcher: str, blocks: dict[str, list[str]]) -> None:
    """Compile the launcher and the blocks."""
    write_pyc(launcher, compiled(launcher))
    for title, paths in blocks.items():
        write_block(title, {module_name(path): compiled(path) for path in paths})


def module_name(path: str) -> str:
    """Return the full name of the module at a path below site-packages."""
    name = path.partition("/")[2].removesuffix(".py").removesuffix("/__init__")
    return name.replace("/", ".")


def compiled(path: str) -> CodeType:
    """Compile one source without what no run needs."""
    tree = ast.parse(Path(path).read_bytes())
    undocumented = FUNCTIONS if "/backends/" in path else (*FUNCTIONS, ast.ClassDef)
    for node in ast.walk(tree):
        if isinstance(node, undocumented) and ast.get_docstring(node):
            node.body[0] = ast.copy_location(ast.Pass(), node.body[0])
        if isinstance(node, FUNCTIONS):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    if ast.get_docstring(tree):
        del tree.body[0]
    tree.body = [without_annotation(node) for node in tree.body if not is_idle(node)]
    code: CodeType = compile(tree, path, "exec", FLAGS, dont_inherit=True, optimize=0)
    return code


def is_idle(node: ast.stmt) -> bool:
    """Tell whether no run needs a statement of a module: __future__ and what is for types."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    if isinstance(node, ast.If) and not node.orelse:
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return False


def without_annotation(node: ast.stmt) -> ast.stmt:
    """Return an annotated assignment as a plain one, and everything else unchanged."""
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return ast.copy_location(ast.Assign([node.target], node.value), node)
    return node


def write_pyc(path: str, code: CodeType) -> None:
    """Write the .pyc of the launcher, which zipimport looks for beside its source."""
    head = MAGIC + UNCHECKED_HASH + importlib.util.source_hash(Path(path).read_bytes())
    Path(path).with_suffix(".pyc").write_bytes(head + marshal.dumps(code))


def write_block(title: str, codes: dict[str, CodeType]) -> None:
    """Write a CRC and a map from modules' names to their code."""
    block = marshal.dumps(codes)
    number = int.from_bytes(MAGIC[:2], "little")
    Path(f"{title}-{number}").write_bytes(zlib.crc32(block).to_bytes(4, "big") + block)


if __name__ == "__main__":
    main(sys.argv[1], json.load(sys.stdin))
