"""Preflight: what a file needs against what a machine is, a line for each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kuwa_min.bundle import preflight
from kuwa_min.bundle.host import HostInfo, LoadedLibrary
from kuwa_min.bundle.manifest import Target
from kuwa_min.bundle.preflight import CheckResult, check_host, refusals
from tests.support.manifests import ANYWHERE
from tests.support.programs import ROOT

HOST = HostInfo(
    python=(3, 11, 7),
    implementation="cpython",
    free_threaded=False,
    bits=64,
    executable="/usr/bin/python3",
    os="linux",
    machine="x86_64",
    libc="glibc 2.36",
    cpu=frozenset(("avx", "avx2", "fma")),
    driver="580.65.06",
)
TARGET: Target = {
    "python": "3.11",
    "implementation": "cpython",
    "abi": "cp311",
    "bytecode": "",
    "platform": "manylinux_2_28_x86_64",
    "os": "linux",
    "machine": "x86_64",
    "glibc": "2.28",
    "libraries": {},
    "cpu": ["avx2", "fma"],
    "cuda": "13.0",
    "driver": "580",
    "gpu_libraries": [],
}


def told(results: list[CheckResult]) -> list[str]:
    """Return each status and its line."""
    return [f"{result.status}: {result.line()}" for result in results]


def of_this_machine() -> Target:
    """Return a target that this machine meets."""
    host = HostInfo.detect()
    minor = f"{host.python[0]}.{host.python[1]}"
    target = TARGET.copy()
    target["python"], target["abi"] = (
        minor,
        f"cp{minor.replace('.', '')}{'t' if host.free_threaded else ''}",
    )
    target["machine"], target["glibc"] = host.machine, "2.5"
    target["cpu"] = sorted(host.cpu)[:1]
    return target


PYTHONS = [
    (
        {},
        HOST,
        "good: needs Python 3.11; this is Python 3.11.7, at /usr/bin/python3",
    ),
    (
        {"python": "3.12", "abi": "cp312"},
        HOST,
        "refusal: needs Python 3.12; this is Python 3.11.7, at /usr/bin/python3; "
        "start it with python3.12",
    ),
    (
        {"python": "3.1", "abi": "cp31"},
        HOST,
        "refusal: needs Python 3.1; this is Python 3.11.7, at /usr/bin/python3; "
        "start it with python3.1",
    ),
    (
        {"python": "3.13t", "abi": "cp313t"},
        HOST._replace(python=(3, 13, 0)),
        "refusal: needs free-threaded Python 3.13; this is Python 3.13.0, at /usr/bin/python3; "
        "start it with python3.13t",
    ),
    (
        {"python": "3.13", "abi": "cp313t"},
        HOST._replace(python=(3, 13, 0), free_threaded=True),
        "good: needs free-threaded Python 3.13; "
        "this is free-threaded Python 3.13.0, at /usr/bin/python3",
    ),
    (
        {"python": "3.13", "abi": "cp313"},
        HOST._replace(python=(3, 13, 0), free_threaded=True),
        "refusal: needs Python 3.13; this is free-threaded Python 3.13.0, at /usr/bin/python3; "
        "start it with python3.13",
    ),
    (
        {},
        HOST._replace(implementation="pypy"),
        "refusal: needs Python 3.11; this is PyPy 3.11.7, at /usr/bin/python3; "
        "start it with python3.11",
    ),
    (
        {},
        HOST._replace(bits=32),
        "refusal: needs Python 3.11 of 64 bits; this is 32-bit Python 3.11.7, "
        "at /usr/bin/python3; start it with python3.11",
    ),
    (
        ANYWHERE,
        HOST,
        "good: needs Python 3.10 or newer; this is Python 3.11.7, at /usr/bin/python3",
    ),
    (
        ANYWHERE,
        HOST._replace(python=(3, 10, 0), bits=32, implementation="pypy", free_threaded=True),
        "good: needs Python 3.10 or newer; "
        "this is 32-bit free-threaded PyPy 3.10.0, at /usr/bin/python3",
    ),
    (
        ANYWHERE,
        HOST._replace(python=(3, 9, 18)),
        "refusal: needs Python 3.10 or newer; this is Python 3.9.18, at /usr/bin/python3; "
        "start it with a newer one, for example: python3.10",
    ),
]


@pytest.mark.parametrize(("change", "host", "line"), PYTHONS)
def test_python(change: dict[str, str], host: HostInfo, line: str) -> None:
    """Its minor, its kind, its threads and its bits, exactly; for a pure file a minor or newer."""
    target: Target = {**TARGET, **change}  # type: ignore[typeddict-item]
    assert told(preflight.check_python(target, host)) == [line]


GOOD_SYSTEM = [
    "good: needs Linux; this is Linux",
    "good: needs a machine of the kind x86_64; this is x86_64",
    "good: needs glibc 2.28 or newer; this system has 2.36",
]
SYSTEMS = [
    (HOST, GOOD_SYSTEM),
    (
        HOST._replace(os="darwin", libc="", machine="arm64"),
        ["refusal: needs Linux; this is macOS; carry it to a machine with Linux"],
    ),
    (
        HOST._replace(os="freebsd"),
        ["refusal: needs Linux; this is freebsd; carry it to a machine with Linux"],
    ),
    (
        HOST._replace(machine="aarch64"),
        [
            GOOD_SYSTEM[0],
            "refusal: needs a machine of the kind x86_64; this is aarch64; "
            "build the file for it (--platform manylinux_2_28_aarch64)",
        ],
    ),
    (
        HOST._replace(libc="glibc 2.17"),
        [
            *GOOD_SYSTEM[:2],
            "refusal: needs glibc 2.28 or newer; this system has 2.17; "
            "build the file for it (--platform manylinux_2_17_x86_64) or use a newer system",
        ],
    ),
    (
        HOST._replace(libc="glibc 2.9.9000"),
        [
            *GOOD_SYSTEM[:2],
            "refusal: needs glibc 2.28 or newer; this system has 2.9.9000; "
            "build the file for it (--platform manylinux_2_9_x86_64) or use a newer system",
        ],
    ),
    (
        HOST._replace(libc="musl"),
        [
            *GOOD_SYSTEM[:2],
            "refusal: needs glibc 2.28 or newer; this system has musl, not glibc; "
            "use a system with glibc",
        ],
    ),
    (
        HOST._replace(libc=""),
        [
            *GOOD_SYSTEM[:2],
            "refusal: needs glibc 2.28 or newer; this system has another C library, not glibc; "
            "use a system with glibc",
        ],
    ),
]


@pytest.mark.parametrize(("host", "lines"), SYSTEMS)
def test_the_system(host: HostInfo, lines: list[str]) -> None:
    """Up to the first that is wrong: nothing behind it means anything."""
    assert told(preflight.check_system(TARGET, host)) == lines


def loaded(path: str, *versions: str) -> LoadedLibrary:
    """Return a library that defines these symbol versions."""
    return LoadedLibrary(path, "", frozenset(versions))


def failed(error: str) -> LoadedLibrary:
    """Return a library that could not be loaded, or not be looked into."""
    return LoadedLibrary("", error, frozenset())


LIBSTDCXX = "/usr/lib/libstdc++.so.6"
CARRY = "the package libstdc++6 (Debian, Ubuntu) or libstdc++ (Red Hat, Fedora)"
NOT_FOUND = "cannot open shared object file: No such file or directory"
LIBRARIES = [
    ("libz.so.1", [], loaded("/lib/libz.so.1"),
     "good: needs libz.so.1; it is here: /lib/libz.so.1"),
    ("libstdc++.so.6", ["GLIBCXX_3.4.29"], loaded(LIBSTDCXX, "GLIBCXX_3.4.29"),
     f"good: needs libstdc++.so.6 with GLIBCXX_3.4.29; it is here: {LIBSTDCXX}"),
    ("libstdc++.so.6", ["A_1", "B_2"], loaded(LIBSTDCXX, "A_1"),
     f"refusal: needs libstdc++.so.6 with A_1, B_2; {LIBSTDCXX} lacks B_2; use a newer system, "
     f"or carry in a newer version of {CARRY}"),
    ("libstdc++.so.6", [], failed(f"libstdc++.so.6: {NOT_FOUND}"),
     f"refusal: needs libstdc++.so.6; it is not here; carry in {CARRY}"),
    ("libodd.so.1", [], failed(f"libodd.so.1: {NOT_FOUND}"),
     "refusal: needs libodd.so.1; it is not here; carry in the package that has libodd.so.1"),
    ("libodd.so.1", [], failed(f"libother.so.2: {NOT_FOUND}"),
     f"refusal: needs libodd.so.1; it cannot be loaded: libother.so.2: {NOT_FOUND}; "
     "carry in the package that has libodd.so.1"),
    ("libstdc++.so.6", ["A_1"], failed(""),
     f"warning: needs libstdc++.so.6 with A_1; this Python cannot check it; it comes with {CARRY}"),
]  # fmt: skip


@pytest.mark.parametrize(("soname", "versions", "library", "line"), LIBRARIES)
def test_a_library(soname: str, versions: list[str], library: LoadedLibrary, line: str) -> None:
    """There, too old, not there, broken, or hidden."""
    assert told([preflight.check_library(soname, versions, library)]) == [line]


CPUS = [
    ([], frozenset(), []),
    (["avx2"], frozenset(("avx2", "sse")), ["good: needs a CPU with avx2; this one has them"]),
    (
        ["avx2", "avx512f", "fma"],
        frozenset(("avx2",)),
        [
            "refusal: needs a CPU with avx2, avx512f, fma; this one lacks avx512f, fma; "
            "use a newer machine, or build the file for any (CMAKE_ARGS=-DGGML_NATIVE=OFF)"
        ],
    ),
    (
        ["avx2"],
        frozenset(),
        [
            "warning: needs a CPU with avx2; this machine does not tell (/proc/cpuinfo); "
            "if it ends with Illegal instruction, build the file on such a machine"
        ],
    ),
]


@pytest.mark.parametrize(("needed", "flags", "lines"), CPUS)
def test_the_processor(needed: list[str], flags: frozenset[str], lines: list[str]) -> None:
    """By its flags; one that says nothing gets the benefit of the doubt."""
    target: Target = {**TARGET, "cpu": needed}
    assert told(preflight.check_cpu(target, HOST._replace(cpu=flags))) == lines


CARRY_DRIVER = "carry in driver 580 or newer, or build the file for an older CUDA"
DRIVERS = [
    ("13.0", "580", "580.65.06", "good: needs NVIDIA driver 580 or newer for CUDA 13.0; "
     "this machine has 580.65.06"),
    ("13.0", "580", "535.129.03", "warning: needs NVIDIA driver 580 or newer for CUDA 13.0; "
     f"this machine has 535.129.03; {CARRY_DRIVER}"),
    ("13.0", "580", "", "warning: needs NVIDIA driver 580 or newer for CUDA 13.0; "
     "no NVIDIA driver is here; carry one in; without, it runs on the CPU only, if asked to"),
    ("12.8", "525.60.13", "525.60.2", "warning: needs NVIDIA driver 525.60.13 or newer for CUDA "
     "12.8; this machine has 525.60.2; carry in driver 525.60.13 or newer, or build the file for "
     "an older CUDA"),
    ("15.0", "", "580.65.06", "good: needs NVIDIA driver for CUDA 15.0; this machine has "
     "580.65.06"),
]  # fmt: skip


@pytest.mark.parametrize(("cuda", "least", "driver", "line"), DRIVERS)
def test_the_driver(cuda: str, least: str, driver: str, line: str) -> None:
    """Never a reason to refuse: the CPU can be asked for."""
    target: Target = {**TARGET, "cuda": cuda, "driver": least}
    assert told(preflight.check_driver(target, HOST._replace(driver=driver))) == [line]


def test_a_file_without_cuda_has_nothing_to_say_of_drivers() -> None:
    """Whatever the machine has."""
    assert preflight.check_driver({**TARGET, "cuda": ""}, HOST) == []


def test_a_library_for_graphics_cards_is_no_reason_to_refuse() -> None:
    """Nor is a host that cannot tell; what to carry in is said."""
    needed, name = "needs libvulkan.so.1 for graphics cards", "libvulkan.so.1"
    where = "the package libvulkan1 (Debian, Ubuntu) or vulkan-loader (Red Hat, Fedora)"
    gone, here = failed(f"{name}: cannot open shared object file"), loaded("/lib/libvulkan.so.1")
    found = [preflight.check_gpu_library(name, one) for one in (gone, here)]
    assert told(found) == [
        f"warning: {needed}; it is not here; carry in {where}; without, it runs on the CPU only",
        f"good: {needed}; it is here: /lib/libvulkan.so.1",
    ]


def test_libraries_for_graphics_cards_are_looked_for() -> None:
    """After all that can refuse."""
    target: Target = {**of_this_machine(), "gpu_libraries": ["libnowhere.so.7"]}
    last = check_host(target)[-1]
    assert (last.what, last.status) == ("libnowhere.so.7", "warning")


def test_a_pure_file_needs_python_alone() -> None:
    """Its target names nothing else."""
    found = check_host(ANYWHERE)
    assert [(result.what, result.status) for result in found] == [("Python", "good")]


def test_this_machine_meets_a_target_of_its_own() -> None:
    """In the order of importance, with the libraries between the system and the processor."""
    target = of_this_machine()
    target["libraries"] = {"libc.so.6": ["GLIBC_2.2.5"], "libnowhere.so.7": []}
    found = check_host(target)
    order = ["Python", "operating system", "machine", "glibc", "libc.so.6", "libnowhere.so.7"]
    assert [result.what for result in found][:6] == order
    assert [result.what for result in refusals(found)] == ["libnowhere.so.7"]


@pytest.mark.parametrize(
    ("key", "value"), [("os", "darwin"), ("machine", "pdp11"), ("glibc", "99.1")]
)
def test_nothing_is_loaded_on_the_wrong_system(key: str, value: str) -> None:
    """What lies there under a library's name may be made for another loader."""
    target: Target = {**of_this_machine(), "libraries": {"libnowhere.so.7": []}}
    found = check_host({**target, key: value})  # type: ignore[typeddict-item]
    assert len(refusals(found)) == 1
    assert found[-1].status == "refusal"
    assert "libnowhere.so.7" not in [result.what for result in found]


def test_several_reasons_are_all_told() -> None:
    """A user who has to carry in two things learns it at once."""
    target: Target = {**of_this_machine(), "python": "3.99", "abi": "cp399"}
    target["libraries"] = {"libnowhere.so.7": [], "libelsewhere.so.8": []}
    reasons = [result.what for result in refusals(check_host(target))]
    assert reasons == ["Python", "libnowhere.so.7", "libelsewhere.so.8"]


@pytest.mark.slow
def test_importing_it_imports_little() -> None:
    """It runs before anything is unpacked."""
    program = "import sys, kuwa_min.bundle.preflight; print(*sys.modules)"
    command = [sys.executable, "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"ctypes", "mmap", "pathlib", "json", "struct"} & {*done.stdout.split()}
