"""A CUDA toolkit out of NVIDIA's wheels: programs that run, links, a stand-in for the driver."""

from __future__ import annotations

import ctypes
import os
import zipfile
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.elf.reader import read_elf
from kuwa_min.packing.llama_cpp.cuda_toolkit import (
    PROGRAMS,
    ROOT,
    STUB,
    complete,
    toolkit_pins,
    unpack,
)

HEADER = """
#define cuMemAlloc cuMemAlloc_v2
#define cuStreamGetId __CUDA_API_PTSZ(cuStreamGetId)
CUresult CUDAAPI cuInit(unsigned int Flags);
"""


def make_toolkit(tmp_path: Path, programs: tuple[str, ...]) -> Path:
    """Unpack a wheel with these programs, a library and a header."""
    wheel = tmp_path / "nvidia.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in programs:
            program = zipfile.ZipInfo(f"{ROOT}/{name}")
            program.external_attr = 0o100744 << 16
            archive.writestr(program, b"")
        archive.writestr(f"{ROOT}/lib/libcudart.so.13", b"")
        archive.writestr(f"{ROOT}/include/cuda.h", HEADER)
    unpack([wheel], tmp_path)
    return tmp_path / ROOT


def test_every_wheel_has_one_hash() -> None:
    """The six wheels are pinned, all of CUDA 13.0."""
    pins = toolkit_pins()
    assert len(pins) == 6
    assert all(pin.version.startswith("13.0.") and len(pin.hashes) == 1 for pin in pins)


def test_what_wheels_lack_is_added(tmp_path: Path) -> None:
    """Links without a version, and a libcuda.so.1 that has every function of the header."""
    root = make_toolkit(tmp_path, PROGRAMS)
    complete(root)
    assert os.access(root / "bin/nvcc", os.X_OK)
    assert str((root / "lib/libcudart.so").readlink()) == "libcudart.so.13"
    assert (root / "lib64/libcudart.so").exists()
    elf = read_elf((root / STUB).read_bytes())
    assert elf
    assert elf.soname == "libcuda.so.1"
    stub = ctypes.CDLL(str(root / STUB))
    assert [stub[name]() for name in ("cuInit", "cuMemAlloc_v2", "cuStreamGetId")] == [999] * 3


def test_wheels_without_a_compiler_are_refused(tmp_path: Path) -> None:
    """NVIDIA's wheels for CUDA 12 have none."""
    root = make_toolkit(tmp_path, PROGRAMS[1:])
    with pytest.raises(UsageError, match=r"have no bin/nvcc"):
        complete(root)
