"""NVIDIA's compiler out of its wheels, without cuBLAS, for the test that compiles with it.

`python -m tests.support.cuda_compiler` fetches the wheels of cuda.txt into build/cuda, 104 MB, and
CMake and Ninja besides.
"""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from kuwa_min.packing.llama_cpp.cuda_toolkit import toolkit_pins
from kuwa_min.packing.wheels.constraints import FILE
from kuwa_min.packing.wheels.lock import Pin
from tests.support.fake_wheels import digest
from tests.support.programs import ROOT

FOLDER = ROOT / "build" / "cuda"
CUBLAS = "nvidia-cublas"  # 421 MB
TOOLS = ("cmake", "ninja")


def compiler_pins() -> tuple[Pin, ...]:
    """Return the wheels of NVIDIA's that are fetched."""
    return tuple(pin for pin in toolkit_pins() if pin.name != CUBLAS)


def build_tools() -> tuple[Pin, ...]:
    """Pin CMake and Ninja as they were fetched; skips the test if they were not."""
    wheels = [next(FOLDER.glob(f"{name}-*.whl"), None) for name in TOOLS]
    if not all(wheels):
        pytest.skip("NVIDIA's compiler is not here: make cuda")
    found = zip(TOOLS, filter(None, wheels), strict=True)
    return tuple(Pin(name, path.name.split("-")[1], (digest(path),)) for name, path in found)


def main() -> int:
    """Fetch the wheels, which are for one kind of processor; return pip's exit code."""
    if platform.machine() != "x86_64":
        return 0
    wanted = FOLDER / "wanted.txt"
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted.write_text("".join(pin.text() for pin in compiler_pins()), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(FOLDER)]
    hashed = subprocess.run([*pip, "--require-hashes", "-r", str(wanted)]).returncode
    return hashed or subprocess.run([*pip, "-c", str(FILE), *TOOLS]).returncode


if __name__ == "__main__":
    sys.exit(main())
