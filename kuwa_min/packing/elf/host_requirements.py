"""Derive what wheels require of a host: glibc, system libraries, CPU flags and NVIDIA's driver.

Only libraries that are loaded count. Wheels contain plug-ins that are rarely used (nvshmem's for
MPI, cufile's for InfiniBand), and what those require must not keep a file from starting. So:

1. Python loads extension modules, which export PyInit_*. A wheel without any, such as
   llama-cpp-python or NVIDIA's, has its libraries loaded by name: there each one counts.
2. The dynamic loader loads their DT_NEEDED entries, transitively, from any of the wheels.
3. A manylinux wheel requires only the system libraries of the policy (PEP 600). Other names must
   be those of a library in another wheel or of the driver. A library with a name that is neither,
   as in bitsandbytes's for ROCm, cannot be loaded here and does not count.
4. ggml loads a backend for graphics cards if it can. Where only such a backend needs the loader of
   Vulkan, that loader is no more required than a driver is: the CPU computes without.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from packaging.utils import canonicalize_name

from kuwa_min.bundle.versions import version_numbers

from .reader import Elf
from .scan import ElfScan

# auditwheel's manylinux-policy.json, without glibc's own libraries.
# fmt: off
POLICY = {
    "libatomic.so.1", "libgcc_s.so.1", "libstdc++.so.6", "libnsl.so.1", "libX11.so.6",
    "libXext.so.6", "libXrender.so.1", "libICE.so.6", "libSM.so.6", "libGL.so.1",
    "libgobject-2.0.so.0", "libgthread-2.0.so.0", "libglib-2.0.so.0", "libexpat.so.1",
    "libz.so.1",
}
# fmt: on
GLIBC = re.compile(r"(?:lib(?:c|m|dl|rt|pthread|util|resolv|anl|mvec)|ld-linux.*|ld64)\.so\.\d+")
GLIBC_NAMES = {"GLIBC_ABI_DT_RELR": "2.36"}  # symbol versions without a number, by glibc's NEWS
DRIVER = re.compile(r"lib(?:cuda|nvcuvid|nvoptix|nvidia-.*)\.so(?:\.\d+)*")  # in no wheel
LOADER = re.compile(r"libvulkan\.so(?:\.\d+)*")  # of the drivers that speak Vulkan

# Of ggml's ggml-cpu.c and CMakeLists.txt, in the names of /proc/cpuinfo. ggml's least option
# is -msse4.2, and its AVX-512 stands for five flags.
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
VARIANT = re.compile(r"(?:.*/)?libggml-cpu-.+\.so")  # ggml picks one at run time
GPU_BACKEND = re.compile(r"(?:.*/)?libggml-(?!base\b|cpu\b).+\.so")
# Libraries that Python never loads, of wheels without extension modules: llama.cpp's command-line
# tools, which may be linked with OpenSSL, and CMake's second copy of all libraries.
TOOLS = re.compile(r"(?:.*/)?libllama-common\.so.*|(?:lib|bin)/.*")

# The oldest driver on Linux by CUDA's major version: "CUDA Toolkit and Minimum Required Driver
# Version for CUDA Minor Version Compatibility" in NVIDIA's release notes of CUDA.
DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580"}
RUNTIME = re.compile(r"nvidia-cuda-runtime(?:-cu\d+)?")
LOCAL_VERSION = re.compile(r".*\+(?:.*\.)?cu(\d\d)(\d+)(?:\..*)?")  # torch 2.8.0+cu128
CUDART = re.compile(r"libcudart\.so\.(\d+(?:\.\d+)?)")


class HostRequirements(NamedTuple):
    """What a file requires of a host; the fields are those of manifest.Target."""

    glibc: str
    libraries: dict[str, list[str]]
    cpu: list[str]
    cuda: str
    driver: str
    gpu_libraries: list[str]


class _Library(NamedTuple):
    """A library and the wheel it is in."""

    scan: ElfScan
    path: str
    elf: Elf


def host_requirements(scans: Iterable[ElfScan], packages: Mapping[str, str]) -> HostRequirements:
    """Combine the requirements of these wheels; packages maps names to versions."""
    scans = list(scans)
    inside = _by_name(scans)
    loaded = _loaded(scans, inside)
    libraries, gpu_libraries = _outside(loaded, inside)
    tags = [scan.glibc for scan in scans if scan.glibc]
    cuda = _cuda(packages, libraries)
    return HostRequirements(
        glibc=max([*tags, *_glibc_of_libraries(loaded)], key=version_numbers, default=""),
        libraries=libraries,
        cpu=sorted({flag for library in loaded for flag in _flags(library)}),
        cuda=cuda,
        driver=DRIVERS.get(cuda.partition(".")[0], ""),
        gpu_libraries=gpu_libraries,
    )


def _by_name(scans: list[ElfScan]) -> dict[str, list[_Library]]:
    """Index the libraries by soname and by file name, as DT_NEEDED may have either."""
    found: dict[str, list[_Library]] = {}
    for library in (_Library(each, *item) for each in scans for item in each.libraries.items()):
        for name in _names(library):
            found.setdefault(name, []).append(library)
    return found


def _names(library: _Library) -> set[str]:
    return {library.elf.soname, library.path.rpartition("/")[2]} - {""}


def _loaded(scans: list[ElfScan], inside: dict[str, list[_Library]]) -> list[_Library]:
    """Return the libraries that are loaded once everything is imported: see the rules above."""
    waiting = [library for scan in scans for library in _first_loaded(scan)]
    loaded: dict[tuple[str, str], _Library] = {}
    while waiting:
        library = waiting.pop()
        place = (library.scan.wheel, library.path)
        if place not in loaded and _can_load(library, inside):
            loaded[place] = library
            waiting += [found for name in library.elf.needed for found in inside.get(name, ())]
    return list(loaded.values())


def _first_loaded(scan: ElfScan) -> list[_Library]:
    modules = {path: elf for path, elf in scan.libraries.items() if elf.modules}
    by_name = {path: elf for path, elf in scan.libraries.items() if not TOOLS.fullmatch(path)}
    return [_Library(scan, *item) for item in (modules or by_name).items()]


def _can_load(library: _Library, inside: dict[str, list[_Library]]) -> bool:
    if not library.scan.glibc:
        return True  # no tag, no promise
    return all(
        name in inside
        or name in POLICY
        or any(known.fullmatch(name) for known in (GLIBC, DRIVER, LOADER))
        for name in library.elf.needed
    )


def _outside(
    loaded: list[_Library], inside: dict[str, list[_Library]]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the system libraries that are required, and those that only graphics cards need.

    The former with their symbol versions by soname.
    """
    found: dict[str, set[str]] = {}
    optional: set[str] = set()
    linked = {name for library in loaded for name in library.elf.needed}
    for library in loaded:
        is_optional = GPU_BACKEND.fullmatch(library.path) and not _names(library) & linked
        for name in library.elf.needed:
            if is_optional and LOADER.fullmatch(name):
                optional.add(name)
            elif not (name in inside or GLIBC.fullmatch(name) or DRIVER.fullmatch(name)):
                found.setdefault(name, set()).update(library.elf.versions.get(name, ()))
    return {name: _highest(found[name]) for name in sorted(found)}, sorted(optional - {*found})


def _highest(versions: set[str]) -> list[str]:
    """Keep the last of each series: a library with GLIBCXX_3.4.29 has all earlier ones, too."""
    last: dict[str, str] = {}
    for version in sorted(versions, key=_series):
        last[_series(version)[0]] = version
    return sorted(last.values())


def _series(version: str) -> tuple[str, tuple[int, ...]]:
    parts = re.fullmatch(r"(.*?)_?(\d+(?:\.\d+)*)", version)
    return (parts[1], version_numbers(parts[2])) if parts else (version, ())


def _glibc_of_libraries(loaded: list[_Library]) -> Iterator[str]:
    for library in loaded:
        for soname, versions in library.elf.versions.items():
            if GLIBC.fullmatch(soname):
                yield from filter(None, map(_glibc_of_version, versions))


def _glibc_of_version(version: str) -> str:
    numbered = re.fullmatch(r"GLIBC_(\d+(?:\.\d+)+)", version)
    return numbered[1] if numbered else GLIBC_NAMES.get(version, "")


def _flags(library: _Library) -> Iterator[str]:
    if not VARIANT.fullmatch(library.path):
        for name, value in library.elf.constants.items():
            yield from GGML.get(name, ()) if value else ()


def _cuda(packages: Mapping[str, str], libraries: Iterable[str]) -> str:
    """Return CUDA's version: of the runtime's wheel, of torch's local version, or of a soname."""
    for name, version in packages.items():
        if RUNTIME.fullmatch(canonicalize_name(name)):
            return ".".join(version.split(".")[:2])
    for build in filter(None, map(LOCAL_VERSION.fullmatch, packages.values())):
        return f"{build[1]}.{build[2]}"
    return max((match[1] for match in map(CUDART.fullmatch, libraries) if match), default="")
