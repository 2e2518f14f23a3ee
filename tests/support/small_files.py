"""Make small wheels and small built files with payloads, for tests to take apart."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from kuwa_min.bundle.archive import Archive
from kuwa_min.bundle.manifest import Manifest, Payload
from kuwa_min.packing.assemble import ANYWHERE
from kuwa_min.packing.pyz import PayloadSpec, write_file
from kuwa_min.packing.wheels.wheel import PayloadFile, read_wheel

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"


def make_wheel(
    folder: Path,
    name: str,
    files: Mapping[str, bytes],
    *,
    version: str = "1.0",
    tag: str = "py3-none-any",
    method: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """Write a wheel with these files and a true RECORD; paths that end in ! are executable."""
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    members = {
        **files,
        f"{info}/METADATA": METADATA.format(name=name, version=version).encode(),
        f"{info}/WHEEL": WHEEL.format(tag=tag).encode(),
    }
    rows = [f"{path.rstrip('!')},{record_hash(data)},{len(data)}" for path, data in members.items()]
    members[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, data in members.items():
            entry = zipfile.ZipInfo(member.rstrip("!"))
            entry.compress_type = method
            entry.external_attr = (0o755 if member.endswith("!") else 0o644) << 16
            archive.writestr(entry, data)
    return path


def record_hash(data: bytes) -> str:
    """Return a hash as RECORD spells it."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"


def files_of(*wheels: Path) -> list[PayloadFile]:
    """Return all files of these wheels."""
    return [file for wheel in wheels for file in read_wheel(wheel, "0" * 64).files]


def manifest_of(payloads: list[Payload]) -> Manifest:
    """Return the manifest of a file that holds these payloads and runs anywhere."""
    return {
        "name": "kuwa-min",
        "version": "0.1.0",
        "backend": "some",
        "executors": {},
        "built_for": ANYWHERE,
        "packages": [],
        "payloads": payloads,
        "host_packages": [],
        "shiv_version": "1.0.8",
        "built_at": "1980-01-01 00:00:00",
    }


def make_file(path: Path, files: list[PayloadFile], kind: str = "libraries") -> Archive:
    """Write a file that has a payload and, for a core, nothing but its manifest."""

    def core(payloads: list[Payload]) -> dict[str, bytes]:
        return {"manifest.json": json.dumps(manifest_of(payloads)).encode()}

    write_file(path, [PayloadSpec(kind, files)], core)
    return Archive(str(path))
