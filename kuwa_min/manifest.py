"""Read and describe the manifest of a built file: the contract between build.py and the program."""

from __future__ import annotations

from typing import TypedDict, cast
from zipimport import zipimporter

MANIFEST = "manifest.json"  # at the root of the archive, UTF-8


class Target(TypedDict):
    """What a file runs on. A file without payload runs anywhere: "any", "" and empty lists."""

    python: str  # ">=3.10", or exactly one minor: "3.12"
    implementation: str  # as sys.implementation.name says: "cpython"
    abi: str  # "any", or as wheels say: "cp312", "cp313t"
    bytecode: str  # the Python minor that starts it without compiling the core
    platform: str  # "any", or as pip says: "manylinux_2_28_x86_64"
    os: str  # "any", or as os.uname() says, in lower case: "linux"
    machine: str  # "any", or as os.uname() says: "x86_64"
    glibc: str  # the least version: "2.28"; "" where none is needed
    libraries: dict[str, list[str]]  # sonames the system must have: the symbol versions in each
    cpu: list[str]  # flags as /proc/cpuinfo says: "avx2"
    cuda: str  # "13.0"; "" without
    driver: str  # the least NVIDIA driver for that CUDA: "580.65"; "" without


class Package(TypedDict):
    """One distribution inside the file; wheel is "" and sha256 is of the sources for our own."""

    name: str
    version: str
    wheel: str  # the wheel's file name
    sha256: str  # of the wheel, in hex
    licence: str  # as its metadata says; "" when they say nothing


class Payload(TypedDict):
    """What rides in front of the zip. Positions count bytes back from the zip's first byte."""

    kind: str  # "libraries" or "model"
    id: str  # the hash of its paths, modes and contents: the key of the cache
    position: int  # of the payload's first byte; the offsets of its index count from here
    index_position: int
    index_size: int  # bytes of zlib-compressed JSON: payload.Index
    files: int
    bytes: int  # on disk, once unpacked
    sha256: str  # of the payload and its index, in hex


class Manifest(TypedDict):
    """What is inside a file, what it was built for and with; built_at is UTC."""

    name: str
    version: str
    backend: str
    built_for: Target
    packages: list[Package]
    payloads: list[Payload]
    host_packages: list[str]  # what --thin leaves to the host's Python: "torch>=2.6"
    shiv_version: str
    built_at: str


def read_manifest() -> Manifest | None:
    """Read the manifest of the archive this code runs from; None when it runs from elsewhere."""
    loader = __spec__.loader
    if not isinstance(loader, zipimporter):
        return None
    try:
        text = loader.get_data(MANIFEST)
    except OSError:
        return None  # an archive that build.py did not make
    import json  # only --version reads a manifest

    return cast(Manifest, json.loads(text))


def describe(manifest: Manifest) -> str:
    """Return the text of --version: name and version, then one aligned line per fact."""
    facts = [*_facts(manifest), *(("package", line) for line in _packages(manifest["packages"]))]
    width = max(len(title) for title, _ in facts)
    lines = [f"{title:{width}}  {fact}" for title, fact in facts]
    return "\n".join([f"{manifest['name']} {manifest['version']}", *lines])


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    target = manifest["built_for"]
    return [
        ("backend", manifest["backend"]),
        ("built for", f"Python {target['python']}, platform {target['platform']}"),
        ("bytecode", f"{target['implementation']} {target['bytecode']}"),
        ("built at", f"{manifest['built_at']} UTC"),
        ("built with", f"shiv {manifest['shiv_version']}"),
    ]


def _packages(packages: list[Package]) -> list[str]:
    names = max(len(package["name"]) for package in packages)
    versions = max(len(package["version"]) for package in packages)
    return [
        f"{package['name']:{names}}  {package['version']:{versions}}  sha256:{package['sha256']}"
        for package in packages
    ]
