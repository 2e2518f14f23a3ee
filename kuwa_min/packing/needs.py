"""Find out what wheels need of a machine: glibc, system libraries, CPU flags and NVIDIA's driver.

What counts is what runs. Wheels hold plug-ins that hardly anybody loads (nvshmem's for MPI,
cufile's for InfiniBand), and what those wish for must not keep a file from starting. So:

1. Python imports extension modules, which say what they are (PyInit_*). A wheel without any, like
   llama-cpp-python or NVIDIA's, has its libraries loaded by name: there each one counts.
2. The loader loads what these need, and what that needs, in whichever of the wheels it is.
3. A manylinux wheel needs nothing of the system but the libraries of the policy; that is what its
   tag promises (PEP 600). What else it names is a sibling's or the driver's. A library that names
   what no sibling has, as bitsandbytes's for ROCm does, cannot load here and does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from .elf import Elf
from .survey import Survey, numbers

# auditwheel's manylinux-policy.json, less what is glibc's own.
# fmt: off
POLICY = {
    "libatomic.so.1", "libgcc_s.so.1", "libstdc++.so.6", "libnsl.so.1", "libX11.so.6",
    "libXext.so.6", "libXrender.so.1", "libICE.so.6", "libSM.so.6", "libGL.so.1",
    "libgobject-2.0.so.0", "libgthread-2.0.so.0", "libglib-2.0.so.0", "libexpat.so.1",
    "libz.so.1",
}
# fmt: on
GLIBC = re.compile(r"(?:lib(?:c|m|dl|rt|pthread|util|resolv|anl|mvec)|ld-linux.*|ld64)\.so\.\d+")
GLIBC_NAMES = {"GLIBC_ABI_DT_RELR": "2.36"}  # versions that are no numbers, by glibc's NEWS
DRIVER = re.compile(r"lib(?:cuda|nvcuvid|nvoptix|nvidia-.*)\.so(?:\.\d+)*")  # never in a wheel

# Of ggml's ggml-cpu.c and CMakeLists.txt, in the names of /proc/cpuinfo. -msse4.2 is the least that
# ggml can be told, and AVX-512 is five flags that it turns on together.
GGML = {
    "ggml_cpu_has_sse3": ("pni",),
    "ggml_cpu_has_ssse3": ("ssse3", "sse4_2"),
    "ggml_cpu_has_avx": ("avx",),
    "ggml_cpu_has_avx_vnni": ("avx_vnni",),
    "ggml_cpu_has_avx2": ("avx2",),
    "ggml_cpu_has_f16c": ("f16c",),
    "ggml_cpu_has_fma": ("fma",),
    "ggml_cpu_has_bmi2": ("bmi2",),
    "ggml_cpu_has_avx512": ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"),
    "ggml_cpu_has_avx512_vbmi": ("avx512vbmi",),
    "ggml_cpu_has_avx512_vnni": ("avx512_vnni",),
    "ggml_cpu_has_avx512_bf16": ("avx512_bf16",),
    "ggml_cpu_has_amx_int8": ("amx_tile", "amx_int8"),
}
VARIANT = re.compile(r"(?:.*/)?libggml-cpu-.+\.so")  # ggml picks the one that suits the machine
# What Python never loads of wheels without extension modules: llama.cpp's own tools, which may be
# linked with OpenSSL, and CMake's second copy of everything.
TOOLS = re.compile(r"(?:.*/)?libllama-common\.so.*|(?:lib|bin)/.*")

# The least driver on Linux by CUDA's major version: "CUDA Toolkit and Minimum Required Driver
# Version for CUDA Minor Version Compatibility" in NVIDIA's release notes of CUDA.
DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580"}
RUNTIME = re.compile(r"nvidia-cuda-runtime(?:-cu\d+)?")
LOCAL_VERSION = re.compile(r".*\+(?:.*\.)?cu(\d\d)(\d+)(?:\..*)?")  # torch 2.8.0+cu128
CUDART = re.compile(r"libcudart\.so\.(\d+(?:\.\d+)?)")


class Needs(NamedTuple):
    """What a file needs of a machine, in the words of manifest.Target."""

    glibc: str
    libraries: dict[str, list[str]]
    cpu: list[str]
    cuda: str
    driver: str


class _Library(NamedTuple):
    """One library of one wheel."""

    survey: Survey
    path: str
    elf: Elf


def combine(surveys: Iterable[Survey], packages: Mapping[str, str]) -> Needs:
    """Sum up what these wheels need together; packages are names and versions."""
    surveys = list(surveys)
    inside = _by_name(surveys)
    running = _running(surveys, inside)
    libraries = _outside(running, inside)
    tags = [survey.glibc for survey in surveys if survey.glibc]
    cuda = _cuda(packages, libraries)
    return Needs(
        glibc=max([*tags, *_glibc_of_libraries(running)], key=numbers, default=""),
        libraries=libraries,
        cpu=sorted({flag for library in running for flag in _flags(library)}),
        cuda=cuda,
        driver=DRIVERS.get(cuda.partition(".")[0], ""),
    )


def _by_name(surveys: list[Survey]) -> dict[str, list[_Library]]:
    """Return the libraries by every name that another one may need them by."""
    found: dict[str, list[_Library]] = {}
    for library in (_Library(each, *item) for each in surveys for item in each.libraries.items()):
        for name in {library.elf.soname, library.path.rpartition("/")[2]} - {""}:
            found.setdefault(name, []).append(library)
    return found


def _running(surveys: list[Survey], inside: dict[str, list[_Library]]) -> list[_Library]:
    """List what is loaded once everything is imported: see the rules above."""
    waiting = [library for survey in surveys for library in _first_loaded(survey)]
    loaded: dict[tuple[str, str], _Library] = {}
    while waiting:
        library = waiting.pop()
        place = (library.survey.wheel, library.path)
        if place not in loaded and _can_load(library, inside):
            loaded[place] = library
            waiting += [found for name in library.elf.needed for found in inside.get(name, ())]
    return list(loaded.values())


def _first_loaded(survey: Survey) -> list[_Library]:
    modules = {path: elf for path, elf in survey.libraries.items() if elf.modules}
    by_name = {path: elf for path, elf in survey.libraries.items() if not TOOLS.fullmatch(path)}
    return [_Library(survey, *item) for item in (modules or by_name).items()]


def _can_load(library: _Library, inside: dict[str, list[_Library]]) -> bool:
    if not library.survey.glibc:
        return True  # no tag, no promise
    return all(
        name in inside or name in POLICY or GLIBC.fullmatch(name) or DRIVER.fullmatch(name)
        for name in library.elf.needed
    )


def _outside(running: list[_Library], inside: dict[str, list[_Library]]) -> dict[str, list[str]]:
    """Return what the system must have: sonames, and the versions of symbols in each."""
    found: dict[str, set[str]] = {}
    for library in running:
        for name in library.elf.needed:
            if not (name in inside or GLIBC.fullmatch(name) or DRIVER.fullmatch(name)):
                found.setdefault(name, set()).update(library.elf.versions.get(name, ()))
    return {name: _highest(found[name]) for name in sorted(found)}


def _highest(versions: set[str]) -> list[str]:
    """Keep the last of each series: a library that has GLIBCXX_3.4.29 has what came before it."""
    last: dict[str, str] = {}
    for version in sorted(versions, key=_series):
        last[_series(version)[0]] = version
    return sorted(last.values())


def _series(version: str) -> tuple[str, tuple[int, ...]]:
    parts = re.fullmatch(r"(.*?)_?(\d+(?:\.\d+)*)", version)
    return (parts[1], numbers(parts[2])) if parts else (version, ())


def _glibc_of_libraries(running: list[_Library]) -> Iterator[str]:
    for library in running:
        for soname, versions in library.elf.versions.items():
            if GLIBC.fullmatch(soname):
                yield from filter(None, map(_glibc_of_version, versions))


def _glibc_of_version(version: str) -> str:
    plain = re.fullmatch(r"GLIBC_(\d+(?:\.\d+)+)", version)
    return plain[1] if plain else GLIBC_NAMES.get(version, "")


def _flags(library: _Library) -> Iterator[str]:
    if not VARIANT.fullmatch(library.path):
        for name, value in library.elf.constants.items():
            yield from GGML.get(name, ()) if value else ()


def _cuda(packages: Mapping[str, str], libraries: Iterable[str]) -> str:
    """Tell CUDA's version by its runtime, inside or outside, or by what was built for it."""
    runtimes = (version for name, version in packages.items() if RUNTIME.fullmatch(_plain(name)))
    for runtime in runtimes:
        return ".".join(runtime.split(".")[:2])
    for build in filter(None, map(LOCAL_VERSION.fullmatch, packages.values())):
        return f"{build[1]}.{build[2]}"
    return max((match[1] for match in map(CUDART.fullmatch, libraries) if match), default="")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
