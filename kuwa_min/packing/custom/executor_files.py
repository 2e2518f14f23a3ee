"""Find the files of a custom executor: of one source, those it imports; of a folder, all."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from kuwa_min.errors import UsageError

from .statements import imports, module_paths, parse

MAIN = ("main", "__main__", "__init__")  # names that say nothing: the folder's is taken
TAKEN = ("kernel", "chat", "ask", "verify", "cache", "unpack")  # verbs of a file's command line
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
LEFT_OUT = ("__pycache__",)
BASE = re.compile(r"\w*Executor")  # the base classes of executors: LLMExecutor, BaseExecutor


class Executor(NamedTuple):
    """A custom executor: what starts it, and its files."""

    name: str
    summary: str  # as --list shows it
    mains: dict[str, str]  # a name on the command line -> the path of its source; its own first
    files: dict[str, Path]  # the path in the executor's folder -> the file


def is_custom(word: str) -> bool:
    """Tell whether a word of build.py's command line is a path instead of a backend's name."""
    return word.endswith(".py") or "/" in word or Path(word).is_dir()


def find_executor(path: Path, with_files: Iterable[Path], known: Iterable[str]) -> Executor:
    """Return the executor of a source or a folder; raises UsageError.

    with_files are files and folders that travel beside it; known are names of built-in backends.
    """
    path = path.absolute()
    if path.is_dir():
        files = dict(_below(path, path))
        mains = _mains(path)
    elif path.is_file() and path.suffix == ".py":
        files = dict(_imported(path))
        mains = {_name(path): path.name}
        if not _leads_to_executor(path):
            raise UsageError(f"{path} defines no executor: no class derives from LLMExecutor")
    else:
        raise UsageError(f"{path}: there is no such executor, neither a .py file nor a folder")
    for one in with_files:
        found = _beside(Path(os.path.abspath(one)))  # noqa: PTH100 - without "..", with links
        _check_overlap(files, found)
        files |= found
    for name in mains:
        _check_name(name, path, known)
    name, main = next(iter(mains.items()))
    _check_paths(files)
    return Executor(name, summary_of(files[main]), mains, dict(sorted(files.items())))


def _name(source: Path) -> str:
    return source.resolve().parent.name if source.stem in MAIN else source.stem


def _check_name(name: str, path: Path, known: Iterable[str]) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"{path}: {name!r} cannot name an executor: rename it to ASCII letters")
    if name in (*known, *TAKEN):
        raise UsageError(f"{path}: {name} is the name of another one, or a verb: rename it")


def _check_overlap(files: Mapping[str, Path], others: Mapping[str, Path]) -> None:
    for name, other in others.items():
        if name in files and not files[name].samefile(other):
            raise UsageError(
                f"{other} would take the place of {files[name]}, as both are {name} in the file's "
                "tree: rename one"
            )


def _check_paths(files: Iterable[str]) -> None:
    for path in files:
        if "\\" in path or re.search(r"[\n\r]", path) or ":" in path.partition("/")[0]:
            raise UsageError(f"{path!r} cannot be in a file's tree: rename it")


def _mains(folder: Path) -> dict[str, str]:
    """Return the executors of a folder: main.py, or that of the folder's name, first."""
    own = folder.resolve().name
    found = [
        path
        for path in sorted(folder.glob("*.py"))
        if (_leads_to_executor if _name(path) == own else _defines_executor)(path)
    ]
    if not found:
        raise UsageError(f"{folder} has no executor: no .py file with a class of LLMExecutor")
    names = {_name(path): path.name for path in found}
    if own not in names and len(found) > 1:
        listed = ", ".join(names.values())
        raise UsageError(f"{folder} has several executors ({listed}): name one of the files")
    first = own if own in names else next(iter(names))
    return {first: names[first], **names}


def _leads_to_executor(source: Path) -> bool:
    """Tell whether a source, or one beside it that it imports, defines an executor."""
    return any(_defining(source))


def _defining(source: Path) -> Iterator[Path]:
    return (path for _, path in _imported(source) if _defines_executor(path))


def _defines_executor(source: Path) -> bool:
    classes = (node for node in parse(source).body if isinstance(node, ast.ClassDef))
    bases = (ast.unparse(base).rpartition(".")[2] for one in classes for base in one.bases)
    return any(BASE.fullmatch(base) for base in bases)


def summary_of(source: Path) -> str:
    """Return the first line of a source's docstring, or of the class that it starts."""
    tree, own = parse(source), parse(next(_defining(source), source))
    classes = [node for node in reversed(own.body) if isinstance(node, ast.ClassDef)]
    texts = [ast.get_docstring(tree), *map(ast.get_docstring, classes), ast.get_docstring(own)]
    return next((text.partition("\n")[0] for text in texts if text), "[Tool] A custom executor.")


def _imported(main: Path) -> Iterator[tuple[str, Path]]:
    """Yield a source and, to closure, the sources beside it that it imports."""
    folder, seen, to_read = main.parent, set[str](), [main.name]
    while to_read:
        name = to_read.pop()
        source = folder / name
        if name in seen or not source.is_file():
            continue
        seen.add(name)
        yield name, source
        for one in imports(parse(source), Path(name).parent.parts):
            to_read += module_paths(one)


def _below(folder: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield what is in a folder, but hidden files and bytecode; raises UsageError for links."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in LEFT_OUT:
            continue
        if path.is_dir():
            if path.is_symlink():
                raise UsageError(f"{path} is a link to a folder: put the folder in its place")
            yield from _below(path, root)
        elif path.is_file():
            yield path.relative_to(root).as_posix(), path
        else:
            raise UsageError(f"{path} leads nowhere, or is neither a file nor a folder")


def _beside(path: Path) -> dict[str, Path]:
    """Return a file, or a folder with all that is in it, under its own name."""
    if path.is_dir():
        return dict(_below(path, path.parent))
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file or folder")
    return {path.name: path}
