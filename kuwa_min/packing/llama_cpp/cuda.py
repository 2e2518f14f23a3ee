"""What compiles ggml's CUDA backend: NVIDIA's compiler from PyPI, and the gcc of this machine."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.resolve import WheelSources

from .cuda_toolkit import cuda_toolkit, toolkit_pins
from .ggml_backend import GgmlBackend

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

# Machine code for T4 and RTX 20, A100, RTX 30 and A10, RTX 40 and L4, H100, RTX 50; and PTX of
# H100, which the driver compiles at the first start for what is newer, such as B200.
DEFAULT = ("75-real", "80-real", "86-real", "89-real", "90", "120a-real")
KNOWN = (
    *("75", "80", "86", "87", "88", "89", "90", "90a", "100", "100a", "100f", "103", "103a"),
    *("103f", "110", "110a", "110f", "120", "120a", "120f", "121", "121a", "121f"),
)  # of nvcc 13.0
ARCHITECTURE = re.compile(r"(\d+[af]?)(-real|-virtual)?")
GCC = range(9, 16)  # llama.cpp's C++17 needs 9; nvcc 13.0 refuses 16
CARRIED = ("nvidia-cublas", "nvidia-cuda-runtime")
RUN_PATH = "$ORIGIN/../../nvidia/cu13/lib;$ORIGIN"  # from llama_cpp/lib in the unpacked file
FIXED_SECONDS, SECONDS = 300, 1500  # of one processor: for the host's code, and by architecture


def parse_architectures(text: str) -> tuple[str, ...]:
    """Read architectures as CMake names them, "75-real;90", or with commas; "" is the default."""
    names = [name.strip() for name in re.split("[;,]", text)] if text else list(DEFAULT)
    for name in names:
        found = ARCHITECTURE.fullmatch(name)
        if not found or found[1] not in KNOWN:
            raise UsageError(
                f"--cuda {text!r}: {name!r} is no architecture that CUDA 13.0 compiles for; known "
                f"are {', '.join(KNOWN)}, each also with -real (machine code only) or -virtual"
            )
    return tuple(dict.fromkeys(names))


def cuda_backend(architectures: tuple[str, ...], environment: Mapping[str, str]) -> GgmlBackend:
    """Describe the backend for these architectures; raises UsageError without a fitting gcc."""
    if platform.machine() != "x86_64":
        raise UsageError(f"--cuda compiles on x86_64 only, and this is {platform.machine()}")
    host, gcc = find_gcc(environment)
    versions = {pin.name: pin.version for pin in toolkit_pins()}
    flags = {
        "GGML_CUDA": "ON",
        "GGML_CUDA_NCCL": "OFF",  # else a build machine that has NCCL makes it a need
        "CMAKE_CUDA_ARCHITECTURES": ";".join(architectures),
        "CMAKE_CUDA_HOST_COMPILER": host,
    }

    def locate(sources: WheelSources, wheelhouse: Path, log_step: LogStep) -> list[str]:
        root = cuda_toolkit(sources, wheelhouse, log_step)
        return [f"-DCUDAToolkit_ROOT={root}", f"-DCMAKE_CUDA_COMPILER={root}/bin/nvcc"]

    return GgmlBackend(
        "cuda",
        tuple(f"-D{name}={value}" for name, value in flags.items()),
        run_path=RUN_PATH,
        compilers=f"nvcc {versions['nvidia-cuda-nvcc']} and gcc {gcc}",
        cpu_seconds=FIXED_SECONDS + SECONDS * len(architectures),
        requirements=tuple(f"{name}=={versions[name]}" for name in CARRIED),
        files={"libggml-cuda.architectures": "".join(f"{a}\n" for a in architectures).encode()},
        locate=locate,
    )


def find_gcc(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the C++ compiler for the host's code, and its version; raises UsageError."""
    named = environment.get("CUDAHOSTCXX") or environment.get("CXX") or "g++"
    path = shutil.which(named)
    wanted = f"nvcc needs gcc {GCC[0]} to {GCC[-1]}"
    advice = "install one (apt-get install g++-12), and name it by CXX=g++-12"
    if not path:
        raise UsageError(f"{wanted}, and there is no {named} here: {advice}")
    command = [path, "-dM", "-E", "-x", "c++", "/dev/null"]
    macros = subprocess.run(command, capture_output=True, text=True).stdout
    version = re.search(r'#define __VERSION__ "([\d.]+)', macros)
    if "__clang__" in macros or not version:
        raise UsageError(f"{wanted}, and {path} is another compiler: {advice}")
    if int(version[1].partition(".")[0]) not in GCC:
        raise UsageError(f"{wanted}, and {path} is gcc {version[1]}: {advice}")
    return path, version[1]
