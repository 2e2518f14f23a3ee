"""Make the core archive: the zip with kuwa_min and the backends that every file ends with.

shiv's builder makes it. What it leaves to us: our own launcher, bytecode, a manifest, and the same
bytes from the same sources and the same Python, wherever and whenever it is.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import tokenize
import zipfile
from datetime import datetime, timezone
from pathlib import Path

from kuwa_min.errors import UsageError
from kuwa_min.launch import AIM
from kuwa_min.manifest import MANIFEST, Manifest
from kuwa_min.registry import cards

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (".py", ".html")  # by suffix: what an editor leaves behind never travels
CORE = ROOT / "kuwa_min"
PACKING = Path(__file__).resolve().parent  # what makes files is not in them
# What a file without libraries does without.
UNPACKERS = {"cache", "inventory", "libraries", "machine", "payload", "places", "prompt", "text"}
UNPACKERS |= {"unpacking", "verdict", "workers"}
LAUNCH, LAUNCHER = "kuwa_min/launch.py", "kuwa_launch"  # a source, a module at the zip's root
INTERPRETER = "/usr/bin/env python3"
SHEBANG = f"#!{INTERPRETER}\n".encode()
SITE_PACKAGES = "site-packages"
DROP_IN = f"{SITE_PACKAGES}/kuwa_min/drop_in"  # imported by other names: no bytecode
NAMESPACE = f"{DROP_IN}/kuwa/"  # zipimport before Python 3.13 sees a folder by its own entry only
COMPILE = """
import __future__, ast, importlib.util, marshal, sys, zlib
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
MAGIC = importlib.util.MAGIC_NUMBER
EARLY = sys.argv[1].split()
FLAGS = __future__.annotations.compiler_flag

def idle(node):  # what no run of the program needs
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    if isinstance(node, ast.If) and not node.orelse:
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return False

def plain(node):  # without the annotation of a module's name
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return ast.copy_location(ast.Assign([node.target], node.value), node)
    return node

codes = {}
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        source = file.read()
    tree = ast.parse(source)
    unread = FUNCTIONS if "/backends/" in path else (*FUNCTIONS, ast.ClassDef)
    for node in ast.walk(tree):
        if isinstance(node, unread) and ast.get_docstring(node):
            node.body[0] = ast.copy_location(ast.Pass(), node.body[0])
        if isinstance(node, FUNCTIONS):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    if ast.get_docstring(tree):
        del tree.body[0]
    tree.body = [plain(node) for node in tree.body if not idle(node)]
    name = path[:-len("/__init__.py")] if path.endswith("/__init__.py") else path[:-len(".py")]
    codes[name] = compile(tree, path, "exec", FLAGS, dont_inherit=True, optimize=0)
    if "/" not in name:  # the launcher; PEP 552: never compared with its source
        with open(name + ".pyc", "wb") as file:
            head = MAGIC + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
            file.write(head + marshal.dumps(codes.pop(name)))
inside = {name.partition("/")[2].replace("/", "."): code for name, code in codes.items()}
early = {name: inside.pop(name) for name in EARLY if name in inside}
for title, part in ("bytecode", inside), ("early", early):
    if part:
        block = marshal.dumps(part)
        with open("%s-%d" % (title, int.from_bytes(MAGIC[:2], "little")), "wb") as file:
            file.write(zlib.crc32(block).to_bytes(4, "big") + block)
"""
# Modules without bytecode: rarely used, and a small gain would cost many kilobytes.
UNHURRIED = (
    *("compat", "embedded_kernel", "file_verbs", "inventory", "manifest", "option_files"),
    *("records", "relay", "status"),
)
EARLY = (
    "kuwa_min kuwa_min.cache kuwa_min.errors kuwa_min.libraries kuwa_min.places kuwa_min.progress"
)
RARE = ("archive", "progress")  # without libraries, only verify needs them
ZIP_EPOCH, ZIP_END = 315532800, 4354819199  # 1980 to 2107: what a zip's timestamps can say


def make_core(manifest: Manifest, aim: str, python: str, staging: Path) -> dict[str, bytes]:
    """Return the archive's entries by name; staging is an empty folder to work in.

    aim is what the launcher must know of the payloads, "" without any; python the executable of
    the Python that the file is for, "" if there is none here: then it gets no bytecode.
    """
    _stage(staging, manifest)
    made = _run_shiv(staging, manifest)
    if aim:
        (staging / AIM).write_bytes(aim.encode("ascii"))
    if python:
        slow = UNHURRIED if aim else (*UNHURRIED, *RARE)
        _compile(staging, python, slow, EARLY if aim else "")
    files = (path for path in staging.rglob("*") if path.is_file())
    ours = {path.relative_to(staging).as_posix(): path.read_bytes() for path in files}
    return made | ours | {NAMESPACE: b""}


def _stage(staging: Path, manifest: Manifest) -> None:
    """Lay out the archive's sources and manifest as they will stand in the zip."""
    is_small = not manifest["payloads"]
    for source in sources(manifest["backend"], with_payload=not is_small):
        name = source.relative_to(ROOT).as_posix()
        copy = staging / (f"{LAUNCHER}.py" if name == LAUNCH else f"{SITE_PACKAGES}/{name}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if is_small and source.suffix == ".py":
            copy.write_bytes(_without_comments(source.read_bytes()))
        else:
            shutil.copyfile(source, copy)
    (staging / MANIFEST).write_bytes(json.dumps(manifest, indent=2).encode() + b"\n")


def _without_comments(source: bytes) -> bytes:
    """Return a source without its comments, line by line the same: three kilobytes in a zip."""
    lines = source.decode().splitlines(keepends=True)
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    return "".join(lines).encode()


def sources(backend: str, *, with_payload: bool) -> list[Path]:
    """List the files that travel, in the order of their names.

    That is the core, the backends that need no library, this one, and what they import of others.
    """
    light = {name for name, card in cards().items() if not card.requires}
    backends = _with_imports({"__init__", backend, *light})
    left_out = () if with_payload else UNPACKERS
    core = (path for path in CORE.rglob("*") if PACKING not in path.parents)
    shipped = (path for path in core if path.suffix in SHIPPED and path.name[0] != ".")
    kept = [path for path in shipped if path.parent != CORE or path.stem not in left_out]
    return sorted([*kept, *map(_backend_source, backends)], key=Path.as_posix)


def _backend_source(name: str) -> Path:
    return ROOT / "backends" / f"{name}.py"


def _with_imports(backends: set[str]) -> set[str]:
    """Add the modules beside the backends that these import."""
    found, to_read = set(backends), list(backends)
    while to_read:
        tree = ast.parse(_backend_source(to_read.pop()).read_bytes())
        near = {name.partition(".")[0] for node in ast.walk(tree) for name in _neighbours(node)}
        to_read += near - found
        found |= near
    return found


def _neighbours(node: ast.AST) -> list[str]:
    """Return the modules of its own package that a statement imports."""
    if not isinstance(node, ast.ImportFrom) or not node.level:
        return []
    return [node.module] if node.module else [alias.name for alias in node.names]


def sources_sha256(backend: str, *, with_payload: bool) -> str:
    """Hash what `sha256sum` prints for the sources, named from the project's root and sorted."""
    total = hashlib.sha256()
    for source in sources(backend, with_payload=with_payload):
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        total.update(f"{digest}  {source.relative_to(ROOT).as_posix()}\n".encode())
    return total.hexdigest()


def built_at() -> str:
    """Return the time of SOURCE_DATE_EPOCH in shiv's format, else a fixed one."""
    text = os.environ.get("SOURCE_DATE_EPOCH", str(ZIP_EPOCH))
    try:
        seconds = min(max(int(text), ZIP_EPOCH), ZIP_END)
    except ValueError:
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds") from None
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def shiv_version() -> str:
    """Return the version of shiv; raises UsageError when it is missing."""
    try:
        return importlib.metadata.version("shiv")
    except importlib.metadata.PackageNotFoundError:
        raise UsageError("shiv is missing: pip install shiv==1.0.8 (or run make)") from None


def _run_shiv(staging: Path, manifest: Manifest) -> dict[str, bytes]:
    """Let shiv make the archive; return its entries without the bootstrap we replace."""
    from shiv.bootstrap.environment import Environment
    from shiv.builder import create_archive

    facts = {key: manifest[key] for key in ("built_at", "shiv_version")}
    entry = "kuwa_min.cli:main"
    environment = Environment(entry_point=entry, compile_pyc=False, reproducible=True, **facts)
    archive = staging.with_suffix(".pyz")
    folders = [staging / SITE_PACKAGES]
    create_archive(folders, archive, INTERPRETER, f"{LAUNCHER}:main", environment, compressed=True)
    with zipfile.ZipFile(archive) as made:
        names = [name for name in made.namelist() if not name.startswith("_bootstrap/")]
        return {name: made.read(name) for name in names}


def _compile(staging: Path, python: str, left_out: tuple[str, ...], early: str) -> None:
    """Add bytecode for this Python's minor: the launcher's, what runs early, and one block more.

    Every other Python compiles the sources.

    One block, because a .pyc beside each source makes the file a sixth larger and the start
    slower. Without columns, annotations and docstrings but those of backends' classes, which are
    their --help: a third of it (line numbers stay).
    By a process of its own with a fixed hash seed, because the bytes depend on the order of sets
    and on which names the process shares; with relative paths, because tracebacks show them.
    """
    modules = [p for p in (staging / SITE_PACKAGES).rglob("*.py") if p.stem not in left_out]
    paths = (path.relative_to(staging).as_posix() for path in modules)
    names = sorted(path for path in paths if not path.startswith(DROP_IN))
    arguments = ["-Xno_debug_ranges", "-c", COMPILE, early, f"{LAUNCHER}.py", *names]
    run_python(python, arguments, staging)


def run_python(python: str, arguments: list[str], folder: Path, given: bytes = b"") -> bytes:
    """Run a Python that knows no site and no environment, with a fixed hash seed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean["PYTHONHASHSEED"] = "0"
    command = [python, "-Ss", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=clean, input=given, stdout=subprocess.PIPE, check=True
    )
    return done.stdout


def zip_of(entries: dict[str, bytes], prefix: bytes = b"") -> bytes:
    """Zip the entries in a fixed order and form; positions in it count from the prefix's start."""
    buffer = io.BytesIO()
    buffer.write(prefix)
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(entries):
            entry = zipfile.ZipInfo(name)  # of 1980
            mode = 0o40755 if entry.is_dir() else 0o100644  # drwxr-xr-x, -rw-r--r--
            entry.create_system, entry.external_attr = 3, mode << 16  # Unix
            archive.writestr(entry, entries[name], zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def this_minor() -> str:
    """Name the minor of this Python as the manifest does: "3.12", "3.13t"."""
    free_threaded = "t" if "t" in getattr(sys, "abiflags", "") else ""
    return f"{sys.version_info.major}.{sys.version_info.minor}{free_threaded}"


def python_for(minor: str) -> str:
    """Return the executable of this minor on this machine; "" if there is none."""
    if minor == this_minor():
        return sys.executable
    found = shutil.which(f"python{minor}") or ""
    probe = "import sys; print('%d.%d' % sys.version_info[:2], end='')"
    command = [found, "-c", probe]
    done = subprocess.run(command, capture_output=True, check=False) if found else None
    return found if done and done.stdout.decode() == minor.rstrip("t") else ""
