"""Read and describe the manifest of a built file: the contract between build.py and the program."""

from __future__ import annotations

from typing import TypedDict, cast
from zipimport import zipimporter

MANIFEST = "manifest.json"  # at the root of the archive, UTF-8


class Target(TypedDict):
    """What a file runs on; bytecode is the Python minor that starts it without compiling."""

    python: str
    implementation: str
    bytecode: str
    platform: str


class Package(TypedDict):
    """One distribution inside the file; build.py says what its sha256 is taken over."""

    name: str
    version: str
    sha256: str


class Manifest(TypedDict):
    """What is inside a file, what it was built for and with; built_at is UTC."""

    name: str
    version: str
    backend: str
    built_for: Target
    packages: list[Package]
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
