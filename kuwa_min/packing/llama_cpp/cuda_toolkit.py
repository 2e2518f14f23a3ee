"""Make a CUDA toolkit out of NVIDIA's wheels: what CMake and nvcc look for, and wheels lack.

Nothing of it travels but the two libraries that the compiled wheel requires, cuBLAS and cudart.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.lock import Pin, read_pins
from kuwa_min.packing.wheels.resolve import WheelSources

from .build_tools import fetch_tools
from .compiling import make_stub

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

FILE = Path(__file__).with_name("cuda.txt")
ROOT = "nvidia/cu13"  # in each of the wheels
PROGRAMS = ("bin/nvcc", "bin/cudafe++", "bin/ptxas", "bin/fatbinary", "nvvm/bin/cicc")
STUB = "lib/stubs/libcuda.so"  # where CMake looks for the driver's library
DECLARED = re.compile(r"CUDAAPI\s+(cu[A-Z]\w+)\s*\(")
RENAMED = re.compile(r"#\s*define\s+cu\w+\s+(?:__CUDA_API_\w+\()?(cu[A-Z]\w+)")


def toolkit_pins() -> tuple[Pin, ...]:
    """Return NVIDIA's wheels with their hashes."""
    return read_pins(FILE.read_text(encoding="utf-8"), str(FILE))


def cuda_toolkit(sources: WheelSources, wheelhouse: Path, log_step: LogStep) -> Path:
    """Return the folder of the toolkit, made once in the wheelhouse; raises UsageError."""
    key = hashlib.sha256(FILE.read_bytes()).hexdigest()[:12]
    folder = (wheelhouse / f"cuda-toolkit-{key}").absolute()
    if not folder.exists():
        wheels = fetch_tools(toolkit_pins(), sources, wheelhouse, log_step)
        log_step("unpacking NVIDIA's compiler and libraries")
        with tempfile.TemporaryDirectory(prefix="part-", dir=wheelhouse) as part:
            unpack(wheels, Path(part))
            complete(Path(part) / ROOT)
            Path(part, ROOT).replace(folder)
    return folder


def unpack(wheels: Iterable[Path], folder: Path) -> None:
    """Unpack wheels into a folder, with the permission to run what is a program."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
            for member in archive.infolist():
                if member.external_attr >> 16 & 0o100:
                    folder.joinpath(member.filename).chmod(0o755)


def complete(root: Path) -> None:
    """Add links by which the linker finds libraries, and a stand-in for the driver's library."""
    for library in sorted(root.glob("lib/lib*.so.*")):
        link = library.with_name(f"{library.name.partition('.so.')[0]}.so")
        if not link.exists():
            link.symlink_to(library.name)
    root.joinpath("lib64").symlink_to("lib")
    stub = root / STUB
    stub.parent.mkdir()
    header = root.joinpath("include/cuda.h").read_text(encoding="utf-8")
    functions = [*DECLARED.findall(header), *RENAMED.findall(header)]
    make_stub(stub, "libcuda.so.1", functions, os.environ)
    missing = [one for one in PROGRAMS if not os.access(root / one, os.X_OK)]
    if missing:
        raise UsageError(f"NVIDIA's wheels have no {', '.join(missing)}: see {FILE}")
