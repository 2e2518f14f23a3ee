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

import contextlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kuwa_min.errors import UsageError

from .elf import Elf, read_elf_file

FORMAT = 1  # of what is remembered; count up when Elf or Survey change
THREADS = 4  # zlib lets them run side by side; each takes some 20 MiB
LIBRARY = re.compile(r"(?:.*/)?[^/]+\.so(?:\.\d+)*")

MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_\w+")
LEGACY = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}
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


class Survey(NamedTuple):
    """What the libraries of one wheel say of themselves, by their paths in it."""

    wheel: str  # its file name
    libraries: dict[str, Elf]

    @property
    def glibc(self) -> str:
        """Tell the least glibc by the wheel's tags; "" when they do not say."""
        return min(_glibc_of_tags(self.wheel), key=_numbers, default="")

    def to_json(self) -> str:
        """Return the text that from_json reads."""
        fields = {"format": FORMAT, "wheel": self.wheel, "libraries": self.libraries}
        return json.dumps(fields, default=sorted)

    @classmethod
    def from_json(cls, text: str) -> Survey:
        """Read what to_json wrote; raises ValueError for anything else."""
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise ValueError(f"this is format {fields['format']}, not {FORMAT}")
            libraries = {path: _elf(*values) for path, values in fields["libraries"].items()}
            return cls(fields["wheel"], libraries)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("this is no survey") from error


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


def survey(wheel: Path) -> Survey:
    """Read every library of a wheel, without unpacking it; raises UsageError for a damaged one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Survey(wheel.name, _libraries(archive))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UsageError(f"{wheel} is not a whole wheel ({error}): fetch it again") from None


def remembered_survey(wheel: Path, sha256: str, folder: Path) -> Survey:
    """Read a wheel's survey from a folder, or make it and leave it there for the next time."""
    memo = folder / f"{sha256}.needs.json"
    with contextlib.suppress(OSError, ValueError):  # none yet, or a damaged one: made anew
        found = Survey.from_json(memo.read_text(encoding="utf-8"))
        if found.wheel == wheel.name:  # the tags are in the name
            return found
    made = survey(wheel)
    with contextlib.suppress(OSError):  # it only saves time, so a folder may be read-only
        _write(memo, made.to_json())
    return made


def combine(surveys: Iterable[Survey], packages: Mapping[str, str]) -> Needs:
    """Sum up what these wheels need together; packages are names and versions."""
    surveys = list(surveys)
    inside = _by_name(surveys)
    running = _running(surveys, inside)
    libraries = _outside(running, inside)
    tags = [survey.glibc for survey in surveys if survey.glibc]
    cuda = _cuda(packages, libraries)
    return Needs(
        glibc=max([*tags, *_glibc_of_libraries(running)], key=_numbers, default=""),
        libraries=libraries,
        cpu=sorted({flag for library in running for flag in _flags(library)}),
        cuda=cuda,
        driver=DRIVERS.get(cuda.partition(".")[0], ""),
    )


def _libraries(archive: zipfile.ZipFile) -> dict[str, Elf]:
    members = [member for member in archive.infolist() if LIBRARY.fullmatch(member.filename)]
    members.sort(key=lambda member: (-member.file_size, member.filename))  # the longest job first
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(archive.open(member)) for member in members]
        pool = stack.enter_context(ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)))
        elves = list(pool.map(read_elf_file, files))
    found = {member.filename: elf for member, elf in zip(members, elves, strict=True) if elf}
    return dict(sorted(found.items()))


def _elf(
    machine: str,
    soname: str,
    needed: list[str],
    versions: dict[str, list[str]],
    modules: list[str],
    constants: dict[str, int],
) -> Elf:
    sets = {name: frozenset(values) for name, values in versions.items()}
    return Elf(machine, soname, tuple(needed), sets, tuple(modules), constants)


def _write(memo: Path, text: str) -> None:
    memo.parent.mkdir(parents=True, exist_ok=True)
    part = memo.with_name(f"{memo.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(memo)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _glibc_of_tags(wheel: str) -> list[str]:
    """Return the glibc of each of its platforms; a wheel runs where any of them does."""
    platforms = wheel.removesuffix(".whl").rpartition("-")[2].split(".")
    return [glibc for glibc in map(_glibc_of_tag, platforms) if glibc]


def _glibc_of_tag(platform: str) -> str:
    modern = MANYLINUX.fullmatch(platform)
    return f"{modern[1]}.{modern[2]}" if modern else LEGACY.get(platform.partition("_")[0], "")


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
    return (parts[1], _numbers(parts[2])) if parts else (version, ())


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
