"""Start a built file once for its --help, which imports all that its start will import."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kuwa_min.errors import UsageError

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

MADE = ("", ".sha256", ".cdx.json", ".licenses.txt")  # suffixes of a file and its documents
LONGEST = 600.0  # seconds: gigabytes are unpacked, and imported for the first time
REMOVALS, PAUSE = 500, 0.01  # how often a folder is removed that is still written to; seconds


def import_once(path: Path, name: str, python: str, log_step: LogStep) -> None:
    """Start the file for its --help; raises UsageError, and removes it, if that fails.

    python is "" where the file is for another machine or a Python that is not here, which is said.
    """
    if not python:
        log_step(f"{path.name} is for another machine: whether {name} can be imported shows there")
        return
    log_step(f"importing {name} once, as its start does")
    with _folder(path.parent) as root:
        failure = _failure([python, str(path), name, "--root", str(root), "--help"], path, root)
    if failure:
        for suffix in MADE:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        raise UsageError(f"{name} cannot be started: {failure}")


@contextlib.contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    """Make a folder to unpack to; remove it, although a process may still mark it as durable."""
    root = Path(tempfile.mkdtemp(prefix="kuwa-import-", dir=parent)).resolve()
    try:
        yield root
    finally:
        for _ in range(REMOVALS):
            shutil.rmtree(root, ignore_errors=True)
            if not root.exists():
                break
            time.sleep(PAUSE)


def _failure(command: list[str], path: Path, root: Path) -> str:
    """Return what a start says that fails; "" for one that succeeds."""
    clean = {key: text for key, text in os.environ.items() if not key.startswith("PYTHON")}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=clean, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return f"its import has no end within {LONGEST:.0f} s"
    if not done.returncode:
        return ""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    said = [line for line in lines if not line.startswith(f"{path.name}: unpack")]
    ended = f"it ends with exit code {done.returncode} and says nothing"
    return re.sub(f"{re.escape(str(root))}/[^/]+/tree/", "", said[-1]) if said else ended
