"""Make one reproducible file per backend: python build.py debug dummy.

shiv's builder makes the archive of the core and of all backends' sources. What it leaves to us: our
own launcher, so that the program runs straight from the zip and nothing is ever unpacked; bytecode,
so that the first start is as fast as any other; a manifest; and the same bytes from the same
sources and the same Python, wherever and whenever it is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from kuwa_min import __version__
from kuwa_min.errors import UsageError
from kuwa_min.launch import bytecode_name
from kuwa_min.manifest import MANIFEST, Manifest
from kuwa_min.registry import Card, cards

DESCRIPTION = "Make one dist/kuwa-<backend>.pyz and its .sha256 per backend."
ROOT = Path(__file__).resolve().parent
PACKAGES = ("kuwa_min", "backends")
SHIPPED = (".py", ".html")  # by suffix: what an editor leaves behind never travels
LAUNCH, LAUNCHER = "kuwa_min/launch.py", "kuwa_launch"  # a source, a module at the zip's root
INTERPRETER = "/usr/bin/env python3"
SITE_PACKAGES = "site-packages"
COMPILE = """
import ast, marshal, sys
codes = {}
for path in sys.argv[1:]:
    with open(path, "rb") as source:
        tree = ast.parse(source.read())
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node):
            node.body[0] = ast.copy_location(ast.Pass(), node.body[0])
    name = path.removeprefix("site-packages/").removesuffix(".py").removesuffix("/__init__")
    codes[name.replace("/", ".")] = compile(tree, path, "exec", dont_inherit=True, optimize=0)
sys.stdout.buffer.write(marshal.dumps(codes))
"""
UNHURRIED = ("compat", "embedded_kernel", "records", "relay")  # small gain, eight kilobytes
ZIP_EPOCH, ZIP_END = 315532800, 4354819199  # 1980 to 2107: what a zip's timestamps can say


def main(argv: Sequence[str] | None = None) -> int:
    """Build what the command line names; return the process's exit code."""
    parser = argparse.ArgumentParser(prog="build.py", description=DESCRIPTION)
    parser.add_argument("backend", nargs="*", help="what to build; --list shows what there is")
    parser.add_argument("--list", action="store_true", help="list the buildable backends and exit")
    parser.add_argument("--output", metavar="DIR", default="dist", help="default: %(default)s")
    options = parser.parse_args(argv)
    if not (options.backend or options.list):
        parser.error("name at least one backend; --list shows them")
    try:
        return _list(cards()) if options.list else _build_all(options.backend, Path(options.output))
    except (UsageError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2


def _list(known: dict[str, Card]) -> int:
    width = max(map(len, known))
    for name, card in known.items():
        if not card.requires:
            print(f"{name:{width}}: {card.summary}")
    return 0


def _build_all(backends: Sequence[str], output: Path) -> int:
    """Build these backends, or none of them and raise UsageError."""
    known = cards()
    for backend in backends:
        _check(backend, known)
    for backend in dict.fromkeys(backends):
        target = build(backend, output)
        print(f"{target}  {target.stat().st_size:,} bytes")
    return 0


def _check(backend: str, known: dict[str, Card]) -> None:
    if backend not in known:
        raise UsageError(f"no backend is called {backend!r}; known are {', '.join(known)}")
    if known[backend].requires:
        raise UsageError(
            f"{backend} needs {', '.join(known[backend].requires)}: this build.py cannot yet "
            "package third-party libraries; heavy backends come with a later version"
        )


def build(backend: str, output: Path) -> Path:
    """Make <output>/kuwa-<backend>.pyz and its .sha256; return the path of the .pyz."""
    manifest = _manifest(backend)
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"kuwa-{backend}.pyz"
    with tempfile.TemporaryDirectory(prefix="kuwa-build-") as directory:
        staging = Path(directory, "archive")
        _stage(staging, manifest)
        made = _run_shiv(staging, manifest)
        _compile(staging)
        files = (path for path in staging.rglob("*") if path.is_file())
        ours = {path.relative_to(staging).as_posix(): path.read_bytes() for path in files}
        _write(target, made | ours)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    target.with_name(f"{target.name}.sha256").write_bytes(f"{digest}  {target.name}\n".encode())
    return target


def _stage(staging: Path, manifest: Manifest) -> None:
    """Lay out the archive's sources and manifest as they will stand in the zip."""
    for source in _sources():
        name = source.relative_to(ROOT).as_posix()
        copy = staging / (f"{LAUNCHER}.py" if name == LAUNCH else f"{SITE_PACKAGES}/{name}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    (staging / MANIFEST).write_bytes(json.dumps(manifest, indent=2).encode() + b"\n")


def _sources() -> list[Path]:
    """List the files that travel, in the order of their names."""
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*"))
    shipped = (path for path in found if path.suffix in SHIPPED and path.name[0] != ".")
    return sorted(shipped, key=Path.as_posix)


def _manifest(backend: str) -> Manifest:
    """Say what is in the file; kuwa_min.manifest is the reader and holds the types."""
    return {
        "name": "kuwa-min",
        "version": __version__,
        "backend": backend,
        "built_for": {
            "python": ">=3.10",
            "implementation": sys.implementation.name,
            "bytecode": f"{sys.version_info.major}.{sys.version_info.minor}",
            "platform": "any",
        },
        "packages": [{"name": "kuwa-min", "version": __version__, "sha256": _sources_sha256()}],
        "shiv_version": _shiv_version(),
        "built_at": _built_at(),
    }


def _sources_sha256() -> str:
    """Hash what `sha256sum` prints for the sources, named from the project's root and sorted."""
    total = hashlib.sha256()
    for source in _sources():
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        total.update(f"{digest}  {source.relative_to(ROOT).as_posix()}\n".encode())
    return total.hexdigest()


def _built_at() -> str:
    """Return the time of SOURCE_DATE_EPOCH in shiv's format, else a fixed one."""
    text = os.environ.get("SOURCE_DATE_EPOCH", str(ZIP_EPOCH))
    try:
        seconds = min(max(int(text), ZIP_EPOCH), ZIP_END)
    except ValueError:
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds") from None
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _shiv_version() -> str:
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
    sources = [staging / SITE_PACKAGES]
    create_archive(sources, archive, INTERPRETER, f"{LAUNCHER}:main", environment, compressed=True)
    with zipfile.ZipFile(archive) as made:
        names = [name for name in made.namelist() if not name.startswith("_bootstrap/")]
        return {name: made.read(name) for name in names}


def _compile(staging: Path) -> None:
    """Add one block of bytecode for this Python's minor; every other one compiles the sources.

    One block, because a .pyc beside each source makes the file a sixth larger and the start
    slower. Without functions' docstrings and without columns, a third of it (line numbers stay).
    By a process of its own with a fixed hash seed, because the bytes depend on the order of sets
    and on which names the process shares; with relative paths, because tracebacks show them.
    """
    modules = [p for p in (staging / SITE_PACKAGES).rglob("*.py") if p.stem not in UNHURRIED]
    names = sorted(path.relative_to(staging).as_posix() for path in modules)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean["PYTHONHASHSEED"] = "0"
    command = [sys.executable, "-Ss", "-Xno_debug_ranges", "-c", COMPILE, *names]
    with (staging / bytecode_name()).open("wb") as block:
        subprocess.run(command, cwd=staging, env=clean, stdout=block, check=True)


def _write(target: Path, entries: dict[str, bytes]) -> None:
    """Write the archive in a fixed order and form; a program that runs from an old one lives on."""
    part = target.with_name(f"{target.name}.part")
    with part.open("wb") as file:
        file.write(f"#!{INTERPRETER}\n".encode())
        with zipfile.ZipFile(file, "w") as archive:
            for name in sorted(entries):
                entry = zipfile.ZipInfo(name)  # of 1980
                entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, -rw-r--r--
                archive.writestr(entry, entries[name], zipfile.ZIP_DEFLATED, compresslevel=9)
    part.chmod(0o755)
    part.replace(target)


if __name__ == "__main__":
    sys.exit(main())
