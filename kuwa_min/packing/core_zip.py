"""Make the core: the zip with kuwa_min and backends that every file ends with.

shiv's builder makes it, and this module adds the launcher, bytecode and the manifest. Builds are
reproducible: equal sources and an equal Python give equal bytes.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from kuwa_min.bundle.manifest import MANIFEST, Manifest, Target
from kuwa_min.bundle.versions import python_minor
from kuwa_min.errors import UsageError
from kuwa_min.launch import BYTECODE, EARLY, LATE, TARGET
from kuwa_min.packing.wheels.target import TargetPython

from .main_text import main_text
from .sources import ACTIVATE, PROGRAM, ROOT, imported_at_once, sources

LAUNCH = "kuwa_min/launch.py"  # the launcher's source
MAIN = "__main__.py"  # stored: whatever bit is damaged, one character is, and not all that follow
LAUNCHER = "kuwa_launch"  # its module's name at the zip's root
INTERPRETER = "/usr/bin/env python3"
SHEBANG = f"#!{INTERPRETER}\n".encode()
SITE_PACKAGES = "site-packages"
DROP_IN = "kuwa_min/drop_in/"  # imported under other names: no bytecode
COMPILE = Path(__file__).with_name("compile_core.py")
ZIP_EPOCH, ZIP_END = 315532800, 4354819199  # 1980 to 2107: the range of a zip's timestamps


def make_core(manifest: Manifest, target_text: str, python: str, staging: Path) -> dict[str, bytes]:
    """Return the entries of the zip by name; staging is an empty folder to work in.

    target_text is of the entry "target", "" without payloads; python is the executable of the
    Python that the file is for, "" without one on this machine: then there is no bytecode.
    """
    _stage(staging, manifest)
    made = _run_shiv(staging, manifest)
    if target_text:
        (staging / TARGET).write_bytes(target_text.encode("ascii"))
    if python:
        _compile(staging, python, [ACTIVATE] if target_text else [])
    files = (path for path in staging.rglob("*") if path.is_file())
    ours = {path.relative_to(staging).as_posix(): path.read_bytes() for path in files}
    entries = made | ours | dict.fromkeys(_namespaces(ours), b"")
    return {**entries, MAIN: main_text(entries, (f"{LAUNCHER}.py", f"{LAUNCHER}.pyc", TARGET))}


def _stage(staging: Path, manifest: Manifest) -> None:
    """Copy the sources and write the manifest to their places in the zip."""
    for source in sources(manifest["backend"], with_payload=bool(manifest["payloads"])):
        name = source.relative_to(ROOT).as_posix()
        copy = staging / (f"{LAUNCHER}.py" if name == LAUNCH else f"{SITE_PACKAGES}/{name}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    (staging / MANIFEST).write_bytes(json.dumps(manifest, indent=2).encode() + b"\n")


def _namespaces(names: Iterable[str]) -> set[str]:
    """Name the folders without __init__.py: zipimport before 3.13 sees them by an entry only."""
    sources = (PurePosixPath(name) for name in names if name.endswith(".py"))
    folders = {f"{folder}/" for source in sources for folder in source.parents}
    below = {folder for folder in folders if folder.startswith(f"{SITE_PACKAGES}/kuwa_min/")}
    return {folder for folder in below if f"{folder}__init__.py" not in names}


def built_at() -> str:
    """Return SOURCE_DATE_EPOCH in shiv's format; without it, a fixed time."""
    text = os.environ.get("SOURCE_DATE_EPOCH", str(ZIP_EPOCH))
    try:
        seconds = min(max(int(text), ZIP_EPOCH), ZIP_END)
    except ValueError:
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds") from None
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def shiv_version() -> str:
    """Return the version of shiv; raises UsageError if it is not installed."""
    try:
        return importlib.metadata.version("shiv")
    except importlib.metadata.PackageNotFoundError:
        raise UsageError("shiv is missing: pip install shiv==1.0.8 (or run make)") from None


def _run_shiv(staging: Path, manifest: Manifest) -> dict[str, bytes]:
    """Run shiv; return the entries it makes, without its bootstrap, which ours replaces."""
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


def _compile(staging: Path, python: str, first: list[str]) -> None:
    """Add bytecode for this Python's minor; every other Python compiles the sources.

    The launcher gets a .pyc. All else goes into blocks, because a .pyc beside each source makes
    the file a sixth larger and the start slower: one with what the launcher imports first, if
    anything, one with the program and the backends, one with what they import inside functions.

    By a process of its own with a fixed hash seed, because the bytes depend on the order of sets
    and on which names the process shares; with relative paths, because tracebacks show them.
    """
    packages = staging / SITE_PACKAGES
    names = {path.relative_to(packages).as_posix() for path in packages.rglob("*.py")}
    names = {name for name in names if not name.startswith(DROP_IN)}
    early = names & imported_at_once(*first)
    backends = {name for name in names if name.startswith("backends/")}
    main = (names & imported_at_once(PROGRAM, *backends)) - early
    blocks = {EARLY: early, BYTECODE: main, LATE: names - main - early}
    paths = {
        title: [f"{SITE_PACKAGES}/{name}" for name in sorted(modules)]
        for title, modules in blocks.items()
        if modules
    }
    arguments = ["-Xno_debug_ranges", str(COMPILE), f"{LAUNCHER}.py"]
    run_python(python, arguments, staging, json.dumps(paths).encode())


def run_python(python: str, arguments: list[str], folder: Path, given: bytes = b"") -> bytes:
    """Run a Python without site-packages and PYTHON* variables, with a fixed hash seed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean["PYTHONHASHSEED"] = "0"
    command = [python, "-Ss", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=clean, input=given, stdout=subprocess.PIPE, check=True
    )
    return done.stdout


def zip_of(entries: dict[str, bytes], prefix: bytes = b"") -> bytes:
    """Zip the entries in a fixed order and form, after this prefix, which offsets include."""
    buffer = io.BytesIO()
    buffer.write(prefix)
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(entries):
            entry = zipfile.ZipInfo(name)  # of 1980
            mode = 0o40755 if entry.is_dir() else 0o100644  # drwxr-xr-x, -rw-r--r--
            entry.create_system, entry.external_attr = 3, mode << 16  # Unix
            method = zipfile.ZIP_STORED if name == MAIN else zipfile.ZIP_DEFLATED
            archive.writestr(entry, entries[name], method, compresslevel=9)
    return buffer.getvalue()


def python_here(target: Target) -> str:
    """Return a Python of this machine that runs files for a target; "" if there is none."""
    if target["platform"] == "any":
        return python_for(python_minor())
    wanted = TargetPython.of(target["python"], target["platform"])
    return python_for(wanted.python) if wanted._replace(python=python_minor()).is_here else ""


def python_for(minor: str) -> str:
    """Return the executable of this Python version on this machine; "" if there is none."""
    if minor == python_minor():
        return sys.executable
    found = shutil.which(f"python{minor}") or ""
    probe = "import sys; print('%d.%d' % sys.version_info[:2], end='')"
    command = [found, "-c", probe]
    done = subprocess.run(command, capture_output=True, check=False) if found else None
    return found if done and done.stdout.decode() == minor.rstrip("t") else ""
