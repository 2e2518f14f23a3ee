"""Start a built file once for its --help, which imports all that its start will import."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kuwa_min.errors import UsageError

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

LONGEST = 600.0  # seconds: gigabytes are unpacked, and imported for the first time


def import_once(path: Path, name: str, python: str, log_step: LogStep) -> None:
    """Start the file for its --help; raises UsageError, and removes it, if that fails.

    python is "" where the file is for another machine or a Python that is not here, which is said.
    """
    if not python:
        log_step(f"{path.name} is for another machine: whether {name} can be imported shows there")
        return
    log_step(f"importing {name} once, as its start does")
    with tempfile.TemporaryDirectory(prefix="kuwa-import-", dir=path.parent) as root:
        command = [python, str(path), name, "--root", root, "--help"]
        clean = {key: text for key, text in os.environ.items() if not key.startswith("PYTHON")}
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, env=clean, timeout=LONGEST
            )
        except subprocess.TimeoutExpired:
            raise UsageError(f"{name} was imported for {LONGEST:.0f} s without an end") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        for made in path.parent.glob(f"{path.name}*"):
            made.unlink()
        raise UsageError(f"{name} cannot be started: {lines[-1] if lines else 'it says nothing'}")
