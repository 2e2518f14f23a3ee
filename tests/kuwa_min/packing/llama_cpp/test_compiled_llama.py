"""The wheel of llama-cpp-python that `make heavy` compiled: what is in it, and what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kuwa_min.packing.elf.scan import scan_wheel
from kuwa_min.packing.llama_cpp.llama_wheel import compiled_before
from tests.support.load.machines import WHEELS, need

pytestmark = pytest.mark.slow  # compiled once, for ten minutes
FOLDER, VARIANT = "llama_cpp/lib/", "libggml-cpu-"
LIBRARIES = {"libggml-base.so", "libggml.so", "libllama.so", "libmtmd.so"}
VARIANTS = {
    *("x64", "sse42", "sandybridge", "ivybridge", "piledriver", "haswell", "alderlake"),
    *("skylakex", "cascadelake", "cooperlake", "sapphirerapids"),
}
SYSTEM = {"libc.so.6", "libgcc_s.so.1", "libgomp.so.1", "libm.so.6", "libstdc++.so.6"}
SYSTEM |= {"ld-linux-x86-64.so.2"}
LOAD = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from llama_cpp import mtmd_cpp
assert pathlib.Path(mtmd_cpp.__file__).is_relative_to(sys.argv[1])
print(mtmd_cpp.mtmd_default_marker().decode())
"""


@pytest.fixture(scope="module")
def wheel() -> Path:
    """Give the wheel."""
    need("llamacpp")
    found = compiled_before("llama-cpp-python", WHEELS)
    if not found:
        pytest.skip("it was not compiled with these CMAKE_ARGS: make heavy does that")
    return found.path


def test_it_has_each_library_once_and_no_program(wheel: Path) -> None:
    """Those for pictures, too; variants that run as another one does are not among them."""
    names = [Path(one).name for one in zipfile.ZipFile(wheel).namelist() if ".so" in one]
    variants = [name for name in names if name.startswith(VARIANT)]
    assert sorted(set(names) - set(variants)) == sorted(LIBRARIES)
    assert sorted(variants) == sorted(f"{VARIANT}{name}.so" for name in VARIANTS)
    assert len(names) == len(set(names))


def test_libraries_find_each_other_and_need_the_system_only(wheel: Path) -> None:
    """Each other is what lies beside them: see the last test."""
    for path, found in scan_wheel(wheel).libraries.items():
        assert set(found.needed) <= SYSTEM | LIBRARIES, path


def test_what_people_send_starts_no_program(wheel: Path) -> None:
    """Video would go to ffmpeg."""
    with zipfile.ZipFile(wheel) as archive:
        assert b"ffmpeg" not in archive.read(f"{FOLDER}libmtmd.so")


def test_the_binding_of_pictures_can_be_imported(wheel: Path, tmp_path: Path) -> None:
    """It finds the libraries beside its own, and every function that it wraps."""
    pytest.importorskip("llama_cpp", reason="the binding needs its dependencies")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    assert subprocess.check_output(command, env={"PATH": os.defpath}, text=True) == "<__media__>\n"
