"""The documents on what a built file contains: a CycloneDX SBOM, and a report of licenses."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable
from urllib.parse import quote

from .manifest import Manifest, Package, is_from_npm

SPDX_ID = re.compile(r"(?!LicenseRef-)[\w.-]+")  # of one license, without an operator
PROPRIETARY = re.compile(r"proprietary|nvidia|eula", re.IGNORECASE)
NVIDIA = re.compile(r"(nvidia|cuda)[-_.]", re.IGNORECASE)  # the beginning of a package's name
LICENSE_FOLDER = re.compile(r"\.dist-info/(license|license_files|licenses)/")
LICENSE_FILE = re.compile(
    r"(^|[-_.])(un)?(licen[cs]es?|copying|copyrights?|notices?|authors|eula"
    r"|third[-_]?party[-_]?(licen[cs]es?|notices?|programs))($|[-_.])",
    re.IGNORECASE,
)
CODE_SUFFIXES = (
    ".py",
    ".pyc",
    ".pyi",
    ".so",
    ".h",
    ".hpp",
    ".c",
    ".cpp",
    ".cu",
    ".js",
    ".css",
    ".json",
)
PAYLOADS = {"model": "machine-learning-model", "executor": "application"}  # kind -> CycloneDX type
UNDECLARED = "(not stated)"
RULE = "=" * 78

NOTICE = """\
These packages are proprietary, or come from NVIDIA and do not say that they are free software:

{}

What they allow is in their licences below, and it binds whoever passes this file on."""
NVIDIA_NOTICE = """\
NVIDIA's libraries may be redistributed only under the terms of NVIDIA's agreements: the EULA of
the CUDA Toolkit, whose attachment A lists the files that may be distributed with an application,
and the agreements of cuDNN, NCCL and others, which lie in their packages. Read them before you
pass this file on to another organisation: https://docs.nvidia.com/cuda/eula/"""
NO_NOTICE = "No package in this file says that it is proprietary."


def is_proprietary(package: Package) -> bool:
    """Tell whether a package may not be redistributed freely; in doubt, yes."""
    if PROPRIETARY.search(package["license"]):
        return True
    return _is_nvidia(package) and not package["spdx"]


def _is_nvidia(package: Package) -> bool:
    return NVIDIA.match(package["name"]) is not None


def is_license_file(path: str) -> bool:
    """Tell whether a path in a wheel is a license, a notice or a list of authors."""
    name = path.rpartition("/")[2]
    named = LICENSE_FILE.search(name) is not None and not name.lower().endswith(CODE_SUFFIXES)
    return named or LICENSE_FOLDER.search(path) is not None


# -- CycloneDX 1.6: https://cyclonedx.org/docs/1.6/json/


def bill_of_materials(manifest: Manifest) -> str:
    """Return the bill of materials, CycloneDX 1.6 in JSON; equal files have equal ones."""
    bill = _bill(manifest)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bill, sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": serial.urn}
    return json.dumps({**head, "version": 1, **bill}, indent=2, ensure_ascii=False) + "\n"


def _bill(manifest: Manifest) -> dict[str, object]:
    root = _root(manifest)
    parts = [*map(_component, manifest["packages"]), *_payloads(manifest)]
    refs = sorted(str(part["bom-ref"]) for part in parts)
    return {
        "metadata": {
            "timestamp": f"{manifest['built_at'].replace(' ', 'T')}Z",
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": _tools(manifest)},
            "component": root,
        },
        "components": parts,
        "dependencies": [{"ref": root["bom-ref"], "dependsOn": refs}],
    }


def _root(manifest: Manifest) -> dict[str, object]:
    name = f"{manifest['name']}-{manifest['backend']}"
    target = manifest["built_for"]
    facts = [(f"built for {key}", target[key]) for key in ("python", "platform", "cuda", "driver")]
    facts += [("taken from the host", requirement) for requirement in manifest["host_packages"]]
    return {
        "type": "application",
        "bom-ref": name,
        "name": name,
        "version": manifest["version"],
        "properties": [_property(title, fact) for title, fact in facts if fact],
    }


def _property(title: str, fact: str) -> dict[str, str]:
    return {"name": f"kuwa-min:{title}", "value": fact}


def _tools(manifest: Manifest) -> list[dict[str, str]]:
    tools = {"build.py": manifest["version"], "shiv": manifest["shiv_version"]}
    return [
        {"type": "application", "name": name, "version": version} for name, version in tools.items()
    ]


def _component(package: Package) -> dict[str, object]:
    purl = _purl(package)
    component: dict[str, object] = {
        "type": "library",
        "bom-ref": purl,
        "name": package["name"],
        "version": package["version"],
        "hashes": [{"alg": "SHA-256", "content": package["sha256"]}],
        "purl": purl,
        "properties": [_property("sha256 of", package["wheel"] or "the sources")],
    }
    return component | _licenses(package)


def _purl(package: Package) -> str:
    """Return a package URL: npm's name, or PyPI's normalised one, the version percent-encoded."""
    if is_from_npm(package):
        return f"pkg:npm/{quote(package['name'])}@{package['version']}"
    name = re.sub(r"[-_.]+", "-", package["name"]).lower()
    return f"pkg:pypi/{name}@{quote(package['version'], safe='')}"


def _licenses(package: Package) -> dict[str, object]:
    license = package["license"]
    if not license:
        return {}
    declared = {"acknowledgement": "declared"}
    if package["spdx"] and not SPDX_ID.fullmatch(license):
        return {"licenses": [{"expression": license, **declared}]}
    kind = "id" if package["spdx"] else "name"
    return {"licenses": [{"license": {kind: license, **declared}}]}


def _payloads(manifest: Manifest) -> list[dict[str, object]]:
    """Return the components that are no packages: a model, the source of an executor."""
    return [
        {
            "type": PAYLOADS[payload["kind"]],
            "bom-ref": f"{payload['kind']}:{payload['id']}",
            "name": "model" if payload["kind"] == "model" else manifest["backend"],
            "version": payload["id"],
            "hashes": [{"alg": "SHA-256", "content": payload["sha256"]}],
        }
        for payload in manifest["payloads"]
        if payload["kind"] in PAYLOADS
    ]


# -- the report of licenses


def license_report(manifest: Manifest, texts: Iterable[tuple[str, str]]) -> str:
    """Return a table of licenses, a notice on proprietary packages, and the license texts.

    texts: pairs of a path inside the tree and its text. A text that several packages share is
    printed once, below all of its paths.
    """
    title = f"Licences of {manifest['name']} {manifest['version']}, {manifest['backend']}"
    parts = [title, _table(manifest["packages"]), RULE, _notice(manifest["packages"])]
    return "\n\n".join([*parts, *_texts(texts)]) + "\n"


def _table(packages: list[Package]) -> str:
    rows = [("package", "version", "licence")]
    rows += [(one["name"], one["version"], one["license"] or UNDECLARED) for one in packages]
    names, versions, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{name:{names}}  {version:{versions}}  {license}" for name, version, license in rows
    )


def _notice(packages: list[Package]) -> str:
    named = [package for package in packages if is_proprietary(package)]
    if not named:
        return NO_NOTICE
    lines = (f"  {one['name']} {one['version']}: {one['license'] or UNDECLARED}" for one in named)
    notice = NOTICE.format("\n".join(lines))
    return f"{notice}\n\n{NVIDIA_NOTICE}" if any(map(_is_nvidia, named)) else notice


def _texts(texts: Iterable[tuple[str, str]]) -> list[str]:
    paths: dict[str, list[str]] = {}
    for path, text in sorted(texts):
        paths.setdefault(text.strip(), []).append(path)
    return [f"{RULE}\n{chr(10).join(where)}\n{RULE}\n\n{text}" for text, where in paths.items()]
