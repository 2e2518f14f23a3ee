"""llama.cpp as a library: which of its backends are loaded, and what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import ROOT

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

pytestmark = pytest.mark.slow
PREPARE = """
import pathlib
from backends.llamacpp import bindings

bindings.prepare()
print(pathlib.Path("/proc/self/maps").read_text())
"""


def test_no_library_of_the_current_directory_is_loaded(tmp_path: Path) -> None:
    """The backends of the package are: who may write where it is started may not run code in it."""
    variants = sorted((Path(llama_cpp.__file__).parent / "lib").glob("libggml-cpu-*.so"))
    if not variants:
        pytest.skip("this build of llama.cpp is linked with its backend")
    for variant in variants:
        shutil.copy(variant, tmp_path)
    command, path = [sys.executable, "-c", PREPARE], {**os.environ, "PYTHONPATH": str(ROOT)}
    maps = subprocess.check_output(command, cwd=tmp_path, env=path, text=True)
    assert f"{variants[0].parent}/libggml-cpu-" in maps
    assert str(tmp_path) not in maps
