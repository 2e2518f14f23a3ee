"""Find the other Pythons of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def python_of(minor: str) -> str:
    """Find an interpreter of this minor, such as 3.12; skip the test if there is none."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(root.glob(f"versions/{minor}.*/bin/python{minor}"))
    for folder in os.get_exec_path():
        if "shims" not in folder:  # pyenv's shims may be switched off
            found += Path(folder).glob(f"python{minor}")
    if not found:
        pytest.skip(f"there is no Python {minor} here")
    return str(found[0])
