"""The road of --cuda with NVIDIA's own compiler, on a small source in place of llama.cpp.

All but the source and cuBLAS is the real thing: the wheels that cuda.txt pins, CMake, gcc. cuBLAS,
421 MB, is a library that has one of its functions, and so is the driver.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from backends.llamacpp.device.cuda_cards import compiled_for, read_architectures
from kuwa_min.errors import UsageError
from kuwa_min.packing.elf.host_requirements import host_requirements
from kuwa_min.packing.elf.reader import read_elf
from kuwa_min.packing.elf.scan import scan_wheel
from kuwa_min.packing.llama_cpp import cuda_toolkit
from kuwa_min.packing.llama_cpp.compiling import make_stub
from kuwa_min.packing.llama_cpp.cuda import cuda_backend
from kuwa_min.packing.llama_cpp.ggml_backend import add_backend
from kuwa_min.packing.llama_cpp.llama_wheel import CompiledWheel
from kuwa_min.packing.wheels.lock import Pin, SourcePin
from kuwa_min.packing.wheels.resolve import WheelSources
from kuwa_min.packing.wheels.wheel import read_wheel
from tests.support.cuda_compiler import CUBLAS, FOLDER, build_tools, compiler_pins
from tests.support.fake_wheels import digest, leave_the_internet, make_wheel

pytestmark = pytest.mark.slow  # compiles

SOURCE = {
    "PKG-INFO": "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 0.3.36\n",
    "pyproject.toml": """
[build-system]
requires = []
build-backend = "own"
backend-path = ["."]
""",
    "own.py": """
import pathlib
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = pathlib.Path(folder, "llama_cpp_python-0.3.36.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_text(pathlib.Path("PKG-INFO").read_text())
    return info.name
""",
    "vendor/llama.cpp/CMakeLists.txt": """
cmake_minimum_required(VERSION 3.21)
project(ggml CXX)
find_package(CUDAToolkit REQUIRED)
enable_language(CUDA)
add_library(ggml-cuda MODULE scale.cu driver.cu)
target_link_libraries(ggml-cuda PRIVATE CUDA::cudart CUDA::cublas CUDA::cuda_driver)
""",
    "vendor/llama.cpp/scale.cu": """
#include <cuda_fp16.h>
__global__ void scale(half *x, half factor) { x[threadIdx.x] *= factor; }
extern "C" int cublasCreate_v2(void **handle);
extern "C" void compute(half *x) { scale<<<1, 32>>>(x, 2); }
extern "C" int multiply(void) { void *handle; return cublasCreate_v2(&handle); }
""",
    "vendor/llama.cpp/driver.cu": """
#include <cuda.h>
extern "C" int driver(void) { return cuInit(0); }
""",
}
LOAD = """
import ctypes, json, sys
for library in sys.argv[2:]:
    ctypes.CDLL(library)
try:
    found = ctypes.CDLL(sys.argv[1])
    print(json.dumps([found.driver(), found.multiply()]))
except OSError as error:
    print(json.dumps(str(error)))
"""


class Compiled(NamedTuple):
    """A wheel with the library, and the folder that it is unpacked in beside NVIDIA's."""

    wheel: CompiledWheel
    site: Path
    stub: Path  # of the driver

    def load(self, *first: Path) -> object:
        """Load the library in a process of its own, after these; return what it answers."""
        library = self.site / "llama_cpp/lib/libggml-cuda.so"
        command = [sys.executable, "-c", LOAD, str(library), *map(str, first)]
        environment = {"PATH": os.defpath}  # and no LD_LIBRARY_PATH
        return json.loads(subprocess.check_output(command, env=environment, text=True))


def make_source(folder: Path) -> SourcePin:
    """Write an sdist, and pin it with the tools that compile it."""
    path = folder / "llama_cpp_python-0.3.36.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in SOURCE.items():
            member = tarfile.TarInfo(f"llama_cpp_python-0.3.36/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return SourcePin(Pin("llama-cpp-python", "0.3.36", (digest(path),)), build_tools())


def make_cublas(folder: Path) -> Pin:
    """Make a wheel of cuBLAS with one function, and pin it."""
    version = next(pin.version for pin in cuda_toolkit.toolkit_pins() if pin.name == CUBLAS)
    wheel = make_wheel(folder, CUBLAS, version)
    make_stub(folder / "cublas.so", "libcublas.so.13", ["cublasCreate_v2"], os.environ)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.write(folder / "cublas.so", "nvidia/cu13/lib/libcublas.so.13")
    return Pin(CUBLAS, version, (digest(wheel),))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiled]:
    """Compile the source for two architectures as build.py does."""
    folder = tmp_path_factory.mktemp("cuda")
    source, links = make_source(folder), WheelSources((), (str(folder), str(FOLDER)), no_index=True)
    with pytest.MonkeyPatch.context() as patch:
        leave_the_internet(patch, folder)
        pins = (*compiler_pins(), make_cublas(folder))
        (folder / "cuda.txt").write_text("".join(pin.text() for pin in pins), encoding="utf-8")
        patch.setattr(cuda_toolkit, "FILE", folder / "cuda.txt")
        try:
            backend = cuda_backend(("75-real", "90"), os.environ)
        except UsageError as error:
            pytest.skip(str(error))
        cpu = CompiledWheel(make_wheel(folder / "cpu", "llama-cpp-python", "0.3.36"), source)
        house = folder / "wheelhouse"
        house.mkdir()
        made = add_backend(backend, cpu, links, house, print)
    (toolkit,) = house.glob("cuda-toolkit-*")
    (folder / "site/nvidia").mkdir(parents=True)
    (folder / "site/nvidia/cu13").symlink_to(toolkit)
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(folder / "site")
    yield Compiled(made, folder / "site", toolkit / cuda_toolkit.STUB)
    shutil.rmtree(toolkit)  # 215 MB


def test_the_library_needs_the_driver_and_what_travels(compiled: Compiled) -> None:
    """Linked as-needed, it has all four; of the system it asks no toolkit, and no path of ours."""
    library = (compiled.site / "llama_cpp/lib/libggml-cuda.so").read_bytes()
    elf = read_elf(library)
    assert elf
    assert {"libcuda.so.1", "libcudart.so.13", "libcublas.so.13"} < {*elf.needed}
    assert str(compiled.site.parent).encode() not in library
    wheels = [compiled.wheel.path, *FOLDER.glob("nvidia_cuda_runtime-*.whl")]
    wheels += compiled.site.parent.glob("nvidia_cublas-*.whl")
    packages = [read_wheel(wheel, digest(wheel)).package for wheel in wheels]
    versions = {one["name"]: one["version"] for one in packages}
    required = host_requirements(map(scan_wheel, wheels), versions)
    assert (required.cuda, required.driver) == ("13.0", "580")
    assert not [name for name in required.libraries if name.startswith(("libcu", "libnv"))]


def test_the_code_is_for_the_architectures_that_were_named(compiled: Compiled) -> None:
    """The list beside the library says so, and the code in it."""
    library = compiled.site / "llama_cpp/lib/libggml-cuda.so"
    assert read_architectures(library) == ["75-real", "90"]
    assert compiled_for(library) == ["75-real", "90-real", "90-virtual"]


def test_the_library_is_loaded_where_a_driver_is(compiled: Compiled) -> None:
    """Both of the others are found from where they are unpacked; without a driver it is said."""
    assert compiled.load(compiled.stub) == [999, 999]
    if not Path("/proc/driver/nvidia").exists():
        assert str(compiled.load()).startswith("libcuda.so.1: cannot open shared object file")
