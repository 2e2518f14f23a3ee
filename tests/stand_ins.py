"""Build a real kuwa-huggingface.pyz in a second: stand-ins for its libraries are real wheels.

Whatever concerns the file, the launcher and the cache is the real thing; only torch and the others
are one-line packages. What needs the libraries themselves is in tests/e2e/test_heavy.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from programs import ROOT
from small_files import make_wheel

from kuwa_min.registry import cards

VERSION = "99.0"  # above every floor
EXTRA = {
    "torch": {"torch/data.bin": bytes(range(256)) * 8192, "torch/twin.bin": bytes(range(256))},
    "transformers": {"transformers/twin.bin": bytes(range(256)), "transformers/tool!": b"#!"},
}


def make_libraries(folder: Path) -> Path:
    """Write a wheel for everything that huggingface requires; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in cards()["huggingface"].requires:
        source = f"NAME, VERSION = {name!r}, {VERSION!r}\n".encode()
        files = {f"{name}/__init__.py": source, **EXTRA.get(name, {})}
        make_wheel(folder, name, files, version=VERSION)
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


def built(folder: Path, *options: object) -> Path:
    """Build the file with stand-ins below this folder; return its path."""
    done = build(folder / "dist", make_libraries(folder / "wheels"), *options)
    assert done.returncode == 0, done.stderr
    return folder / "dist" / "kuwa-huggingface.pyz"
