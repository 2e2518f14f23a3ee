"""The manifest of a built file, the contract between build.py and the program; and its text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypedDict, cast
from zipimport import zipimporter

from .versions import version_numbers

MANIFEST = "manifest.json"  # at the root of the archive, UTF-8
NEXT_UNIT = 999.5  # from here on, a size rounds to 1000 of its unit: the next larger unit is used
TWO_DIGITS = 9.95  # from here on, it rounds to 10.0: no decimal is shown
Fact = tuple[str, str]  # a title and its text


class Target(TypedDict):
    """The Python and machine a file runs on; "any", "" and empty lists if it has no payload."""

    python: str  # ">=3.10", or exactly one minor: "3.12"
    implementation: str  # as sys.implementation.name says: "cpython"
    abi: str  # "any", or a wheel's ABI tag: "cp312", "cp313t"
    bytecode: str  # the Python minor that needs not compile the core; "" if none
    platform: str  # "any", or a wheel's platform tag: "manylinux_2_28_x86_64"
    os: str  # "any", or as os.uname() says, in lower case: "linux"
    machine: str  # "any", or as os.uname() says: "x86_64"
    glibc: str  # the lowest version: "2.28"; "" if none is needed
    libraries: dict[str, list[str]]  # soname that the system must have -> its symbol versions
    cpu: list[str]  # flags of /proc/cpuinfo: "avx2"
    cuda: str  # "13.0"; "" without
    driver: str  # the lowest NVIDIA driver for that CUDA: "580.65"; "" without
    gpu_libraries: list[str]  # sonames that only computing on graphics cards needs


class Package(TypedDict):
    """One distribution inside the file."""

    name: str
    version: str
    wheel: str  # the file name of its wheel, or of its npm package: *.tgz; "" for our own
    sha256: str  # of that file, in hex; of the sources for our own
    license: str  # as its metadata declares it; "" if it declares none
    spdx: bool  # whether the license is an SPDX expression


class Payload(TypedDict):
    """One payload in front of the zip. Positions count bytes back from the zip's first byte."""

    kind: str  # "libraries", "model" or "executor"
    id: str  # the hash of its paths, modes and contents: the key of the cache
    position: int  # of the payload's first byte, from which its blobs' offsets count
    index_position: int
    index_size: int  # bytes of zlib-compressed JSON: archive.Index
    files: int
    folders: int
    bytes: int  # on disk, once unpacked
    sha256: str  # of the payload and its index, in hex


class Manifest(TypedDict):
    """What is inside a file, and what it was built for and with."""

    name: str
    version: str
    backend: str
    executors: dict[str, str]  # those besides the built-in backends: name -> one line about it
    built_for: Target
    packages: list[Package]
    payloads: list[Payload]
    host_packages: list[str]  # with --thin, requirements of the host's Python: "torch>=2.6"
    shiv_version: str
    built_at: str  # UTC: "2026-01-31 12:00:00"


def read_manifest() -> Manifest | None:
    """Read the manifest of the built file that this code runs from; None in a checkout."""
    loader = __spec__.loader
    if not isinstance(loader, zipimporter):
        return None
    try:
        text = loader.get_data(MANIFEST)
    except OSError:
        return None  # a zip that build.py did not make
    import json  # only --version reads a manifest

    return cast(Manifest, json.loads(text))


def describe(manifest: Manifest) -> str:
    """Return the text of --version: name and version, then one aligned line per fact.

    Libraries are counted; describe_fully lists them.
    """
    own = [package for package in manifest["packages"] if not package["wheel"]]
    return _aligned(manifest, [*_facts(manifest), *_titled("package", _rows(own, _hash))])


def describe_fully(manifest: Manifest) -> str:
    """Return the text of --info: that of --version, with every package and host requirement."""
    packages = _titled("package", _rows(manifest["packages"], _hash_and_license))
    hosts = _titled("host package", manifest["host_packages"])
    return _aligned(manifest, [*_facts(manifest), *packages, *hosts])


def size_text(size: int) -> str:
    """Return a number of bytes rounded, in decimal units: "1.3 GB", "144 KB"."""
    value, units = float(size), ["bytes", "KB", "MB", "GB", "TB"]
    while value >= NEXT_UNIT and len(units) > 1:
        value, units = value / 1000, units[1:]
    digits = 1 if value < TWO_DIGITS and units[0] != "bytes" else 0
    return f"{value:.{digits}f} {units[0]}"


def is_from_npm(package: Package) -> bool:
    """Tell whether a package comes from npm; the others are Python's."""
    return package["wheel"].endswith(".tgz")


def _aligned(manifest: Manifest, facts: list[Fact]) -> str:
    width = max(len(title) for title, _ in facts)
    lines = [f"{title:{width}}  {fact}" for title, fact in facts]
    return "\n".join([f"{manifest['name']} {manifest['version']}", *lines])


def _titled(title: str, lines: Iterable[str]) -> list[Fact]:
    return [(title, line) for line in lines]


def _facts(manifest: Manifest) -> list[Fact]:
    target = manifest["built_for"]
    abi = "" if target["abi"] == "any" else f" ({target['abi']})"
    bytecode = [f"{target['implementation']} {target['bytecode']}"] if target["bytecode"] else []
    return [
        ("backend", manifest["backend"]),
        ("built for", f"Python {target['python']}{abi}, platform {target['platform']}"),
        *_titled("bytecode", bytecode),
        ("built at", f"{manifest['built_at']} UTC"),
        ("built with", f"shiv {manifest['shiv_version']}"),
        *((payload["kind"], _payload(payload, manifest)) for payload in manifest["payloads"]),
        *_titled("needs", _needs(target)),
    ]


def _payload(payload: Payload, manifest: Manifest) -> str:
    wheels = sum(1 for package in manifest["packages"] if package["wheel"].endswith(".whl"))
    packages = f"{wheels} packages, " if payload["kind"] == "libraries" else ""
    files = f"{payload['files']:,} {'file' if payload['files'] == 1 else 'files'}"
    return f"{packages}{files}, {size_text(payload['bytes'])} unpacked (id {payload['id']})"


def _needs(target: Target) -> list[str]:
    """Return what the machine must have, a line for each kind."""
    libraries = [_library(*library) for library in sorted(target["libraries"].items())]
    driver = f" with NVIDIA driver {target['driver']} or newer" if target["driver"] else ""
    facts = {
        "glibc {} or newer": target["glibc"],
        "system libraries {}": ", ".join(libraries),
        "a CPU with {}": ", ".join(target["cpu"]),
        "CUDA {}" + driver: target["cuda"],
        "{} for graphics cards": ", ".join(target["gpu_libraries"]),
    }
    return [text.format(fact) for text, fact in facts.items() if fact]


def _library(soname: str, versions: list[str]) -> str:
    """Return a library's name and the newest of each family of its symbol versions."""
    newest: dict[str, str] = {}
    for version in sorted(versions, key=_symbol_version):
        newest[version.rpartition("_")[0]] = version
    return f"{soname} ({', '.join(newest.values())})" if newest else soname


def _symbol_version(name: str) -> tuple[int, ...]:
    return version_numbers(name.rpartition("_")[2])


def _hash(package: Package) -> str:
    return f"sha256:{package['sha256']}"


def _hash_and_license(package: Package) -> str:
    return f"{_hash(package)}  {package['license']}".rstrip()


def _rows(packages: list[Package], detail: Callable[[Package], str]) -> list[str]:
    names = max((len(package["name"]) for package in packages), default=0)
    versions = max((len(package["version"]) for package in packages), default=0)
    return [
        f"{package['name']:{names}}  {package['version']:{versions}}  {detail(package)}"
        for package in packages
    ]
