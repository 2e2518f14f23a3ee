"""Build a real kuwa-huggingface.pyz in a second, with stubs of its libraries in real wheels.

Whatever concerns the file, the launcher and the cache is the real thing; only torch and the others
are one-line packages. What needs the libraries themselves is in tests/e2e/test_heavy.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from kuwa_min.bundle.archive import Archive
from kuwa_min.bundle.manifest import MANIFEST
from kuwa_min.packing.core_zip import zip_of
from kuwa_min.registry import backend_infos
from tests.support.programs import ROOT
from tests.support.small_files import make_wheel

VERSION = "99.0"  # above every floor
EXTRA = {
    "torch": {"torch/data.bin": bytes(range(256)) * 8192, "torch/twin.bin": bytes(range(256))},
    "transformers": {"transformers/twin.bin": bytes(range(256)), "transformers/tool!": b"#!"},
}
MODEL = {
    "config.json": "{}",
    "tokenizer.json": "{}",
    "model.safetensors": "\x02\0\0\0\0\0\0\0{}",  # no tensor, and whole
    "more/tokenizer.json": "{}",
}
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
PROBE = """\
import sys
import torch
print(torch.NAME, torch.__file__)
sys.exit(0)
"""
Extra = Mapping[str, Mapping[str, bytes]]


def make_libraries(folder: Path, extra: Extra = EXTRA) -> Path:
    """Write a wheel for everything that huggingface requires; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, requirement in backend_infos()["huggingface"].requires.items():
        source = f"NAME, VERSION = {name!r}, {VERSION!r}\n".encode()
        files = {f"{name}/__init__.py": source, **extra.get(name, {})}
        distribution = requirement.partition(">=")[0]  # PIL is imported, pillow is installed
        make_wheel(folder, distribution, files, version=VERSION)
    return folder


def write_model(folder: Path) -> Path:
    """Write a model that passes for a real one until it is loaded; return its folder."""
    for name, text in MODEL.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    return folder


def build(
    output: Path, wheels: Path, *options: object, backend: str = "huggingface"
) -> subprocess.CompletedProcess[str]:
    """Run build.py offline with these wheels, in a process of its own."""
    words = [backend, "--output", output, "--no_index", "--find_links", wheels]
    words += ["--wheelhouse", output / "wheelhouse", *options]
    command = [sys.executable, ROOT / "build.py", *words]
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, env=os.environ
    )


def built(folder: Path, *options: object, extra: Extra = EXTRA) -> Path:
    """Build the file with stub libraries below this folder; return its path."""
    done = build(folder / "dist", make_libraries(folder / "wheels", extra), *options)
    assert done.returncode == 0, done.stderr
    return folder / "dist" / "kuwa-huggingface.pyz"


def bulk() -> Extra:
    """Return what makes torch so large that two processes unpack it, for some tenths of a second.

    A test that needs it to take longer stops those processes.
    """
    large = {f"torch/bulk/{n}.bin": bytes([n]) * 16_000_000 for n in range(5)}
    small = {f"torch/small/{n}.py": f"N = {n}\n".encode() for n in range(500)}
    return {**EXTRA, "torch": {**EXTRA["torch"], **large, **small}}


def with_needs(file: Path, copy: Path, **needs: object) -> Path:
    """Copy a built file that says it needs something else; its payloads stay whole."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(entries[MANIFEST])
    manifest["built_for"].update(needs)
    entries[MANIFEST] = json.dumps(manifest).encode()
    copy.write_bytes(file.read_bytes()[: Archive(str(file)).zip_start] + zip_of(entries))
    return copy


class Done(NamedTuple):
    """How a start ended."""

    code: int
    out: str
    err: str


def start(*command: object, cwd: Path | None = None, umask: int = -1, **variables: object) -> Done:
    """Run a command with these variables and hardly another; no traceback may come of it."""
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    environment |= {name: str(value) for name, value in variables.items()}
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, umask=umask, env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def below(folder: Path) -> list[str]:
    """Return all that is in a folder, by its path there."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def payload_id(file: Path) -> str:
    """Return the name that the libraries of a file have in a cache."""
    return Archive(str(file)).payloads[0]["id"]


def another_user(*command: object) -> list[object]:
    """Return the command that runs this as a user without name or rights; skips if we may not."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    return ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", *command]


def public_python() -> str:
    """Return a Python of this minor that every user may run; skips if there is none."""
    for folder in os.defpath.split(os.pathsep):
        if (found := Path(folder, f"python{HERE}")).exists():
            return str(found)
    pytest.skip(f"no Python {HERE} is in {os.defpath}, where every user may run it")


def read_only(folder: object) -> str:
    """Return the shell commands that make a folder read-only, for mounting()."""
    return f"mount --bind {folder} {folder}; mount -o remount,ro,bind {folder}"


def mounting(script: str, *command: object) -> list[object]:
    """Return the command that runs this after a shell script, in mounts of its own.

    It needs root: in a user namespace the owner of / is unmapped, and nothing is trusted.
    """
    flags = ["unshare", "--mount"]
    if os.geteuid() or subprocess.run([*flags, "true"], check=False).returncode:
        pytest.skip("only root may mount, where the container allows it")
    return [*flags, "sh", "-ec", script, "sh", *command]
