"""What compiles ggml's CUDA backend: architectures, gcc, flags and what travels."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.llama_cpp.cuda import (
    DEFAULT,
    RUN_PATH,
    cuda_backend,
    find_gcc,
    parse_architectures,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", DEFAULT),
        ("90", ("90",)),
        ("75-real;90", ("75-real", "90")),
        ("80-real, 120a-real", ("80-real", "120a-real")),
        ("90,90", ("90",)),
    ],
)
def test_architectures_are_read(text: str, expected: tuple[str, ...]) -> None:
    """As CMake names them, or with commas."""
    assert parse_architectures(text) == expected


@pytest.mark.parametrize("text", ["70", "sm_90", "90-fake", "cu128", "90;", "llamacpp", "-real"])
def test_unknown_architectures_are_refused(text: str) -> None:
    """With those that are known."""
    with pytest.raises(UsageError, match=r"known are 75, 80, .*121f"):
        parse_architectures(text)


def gcc_of(tmp_path: Path, macros: str) -> dict[str, str]:
    """Make a compiler that defines these macros; return the environment that names it."""
    compiler = tmp_path / "g++"
    compiler.write_text(f"#!/bin/sh\ncat <<'E'\n{macros}\nE\n")
    compiler.chmod(0o755)
    return {"CXX": str(compiler)}


def test_the_backend_says_all_that_makes_another_library(tmp_path: Path) -> None:
    """Architectures, versions and flags; an estimate; and what the wheel shall have beside."""
    gcc = gcc_of(tmp_path, '#define __VERSION__ "12.2.0"')
    backend = cuda_backend(("90-real", "75-real"), gcc)
    assert "-DGGML_CUDA_NCCL=OFF" in backend.flags
    assert "-DCMAKE_CUDA_ARCHITECTURES=90-real;75-real" in backend.flags
    assert backend.compilers == "nvcc 13.0.88 and gcc 12.2.0"
    assert backend.cpu_seconds == 300 + 2 * 1500
    assert backend.requirements == ("nvidia-cublas==13.0.2.14", "nvidia-cuda-runtime==13.0.96")
    assert backend.files == {"libggml-cuda.architectures": b"90-real\n75-real\n"}
    assert backend.run_path == RUN_PATH


@pytest.mark.parametrize(
    ("macros", "reason"),
    [
        ('#define __VERSION__ "8.5.0"', "is gcc 8.5.0"),
        ('#define __VERSION__ "16.1.0"', "is gcc 16.1.0"),
        ('#define __clang__ 1\n#define __VERSION__ "17.0"', "is another compiler"),
        ("", "is another compiler"),
    ],
)
def test_other_compilers_are_refused(tmp_path: Path, macros: str, reason: str) -> None:
    """In one line that says which would do."""
    with pytest.raises(UsageError, match=f"nvcc needs gcc 9 to 15, and .*{reason}: install one"):
        find_gcc(gcc_of(tmp_path, macros))
    with pytest.raises(UsageError, match="there is no g\\+\\+-none here"):
        find_gcc({"CXX": "g++-none"})
