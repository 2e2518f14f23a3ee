"""The bill of materials in CycloneDX for tools, and the licenses as text."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest

from kuwa_min.bundle import sbom
from kuwa_min.bundle.manifest import Manifest, Package
from kuwa_min.packing.wheels.license import spdx_expression
from tests.support.manifests import EXAMPLE, HEAVY, OWN

PURL = re.compile(r"pkg:pypi/[a-z0-9]+(-[a-z0-9]+)*@([A-Za-z0-9._~-]|%[0-9A-F]{2})+")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
# What the schema of CycloneDX 1.6 requires, and all that it allows of what we use.
TOP = {"bomFormat", "specVersion", "serialNumber", "version"}
TOP |= {"metadata", "components", "dependencies"}
COMPONENT = {"type", "name", "version", "bom-ref", "purl", "hashes", "licenses", "properties"}
TYPES = {"application", "library", "machine-learning-model"}


def bill(manifest: Manifest) -> dict[str, Any]:
    """Return the bill of a manifest as tools see it."""
    return json.loads(sbom.bill_of_materials(manifest))


def package(name: str, license: str, version: str = "1.0") -> Package:
    """Return a package of which only these matter."""
    facts = {"name": name, "version": version, "license": license, "wheel": f"{name}.whl"}
    return {**OWN, **facts, "spdx": bool(spdx_expression(license))}


def licenses_of(license: str) -> Any:
    """Return what the bill says of a package with this license."""
    made = bill({**EXAMPLE, "packages": [package("one", license)]})
    return made["components"][0].get("licenses")


# -- the bill


@pytest.mark.parametrize("manifest", [EXAMPLE, HEAVY], ids=["plain", "heavy"])
def test_the_bill_has_what_the_schema_requires(manifest: Manifest) -> None:
    """The head, the time, and components with known types and no unknown keys."""
    made = bill(manifest)
    assert set(made) == TOP
    assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.6", 1)
    assert TIME.fullmatch(made["metadata"]["timestamp"])
    for component in [*made["components"], made["metadata"]["component"]]:
        assert {"type", "name"} <= set(component) <= COMPONENT
        assert component["type"] in TYPES
        assert all(set(one) == {"name", "value"} for one in component.get("properties", []))


def test_every_package_is_a_component_with_purl_and_hash() -> None:
    """Ours too; the wheel is named."""
    found = [one for one in bill(HEAVY)["components"] if one["type"] == "library"]
    assert [one["name"] for one in found] == [one["name"] for one in HEAVY["packages"]]
    for component, one in zip(found, HEAVY["packages"], strict=True):
        assert PURL.fullmatch(component["purl"])
        assert component["hashes"] == [{"alg": "SHA-256", "content": one["sha256"]}]
        assert component["properties"][0]["value"] == (one["wheel"] or "the sources")


def test_an_embedded_model_is_a_component() -> None:
    """It goes by its id and its hash."""
    (model,) = (one for one in bill(HEAVY)["components"] if "model" in one["type"])
    payload = HEAVY["payloads"][1]
    assert (model["version"], model["hashes"][0]["content"]) == (payload["id"], payload["sha256"])


def test_references_are_unique_and_the_root_depends_on_all() -> None:
    """The graph names every component, and none that is not there."""
    made = bill(HEAVY)
    root = made["metadata"]["component"]["bom-ref"]
    refs = [one["bom-ref"] for one in made["components"]]
    assert len({root, *refs}) == len(refs) + 1
    assert made["dependencies"] == [{"ref": root, "dependsOn": sorted(refs)}]


def test_the_bill_says_what_the_file_is_for() -> None:
    """What there is of the target, and what the host must add."""
    facts = bill(HEAVY)["metadata"]["component"]["properties"]
    assert {"name": "kuwa-min:built for cuda", "value": "13.0"} in facts
    assert {"name": "kuwa-min:taken from the host", "value": "numpy>=2"} in facts
    assert len(bill(EXAMPLE)["metadata"]["component"]["properties"]) == 2


@pytest.mark.parametrize(
    ("name", "version", "purl"),
    [
        ("PyYAML", "6.0.3", "pkg:pypi/pyyaml@6.0.3"),
        ("Foo._-Bar", "1.0", "pkg:pypi/foo-bar@1.0"),
        ("torch", "2.13.0+cpu", "pkg:pypi/torch@2.13.0%2Bcpu"),
        ("old", "1!2.0", "pkg:pypi/old@1%212.0"),
    ],
)
def test_a_purl_is_normalised(name: str, version: str, purl: str) -> None:
    """PyPI's form of the name; what is special is in percents."""
    made = bill({**EXAMPLE, "packages": [package(name, "", version)]})
    assert made["components"][0]["purl"] == purl


def test_a_package_of_npm_has_its_purl() -> None:
    """Told by its file's name; the scope is in percents."""
    one: Package = {**package("@we/one", "MIT"), "wheel": "we-one-1.0.tgz"}
    made = bill({**EXAMPLE, "packages": [one]})
    assert made["components"][0]["purl"] == "pkg:npm/%40we/one@1.0"


def test_the_serial_number_follows_from_the_contents() -> None:
    """The same file, the same number; another file, another one."""
    changed: Manifest = {**HEAVY, "packages": HEAVY["packages"][:-1]}
    assert sbom.bill_of_materials(HEAVY) == sbom.bill_of_materials(HEAVY)
    numbers = [bill(one)["serialNumber"] for one in (HEAVY, changed)]
    assert numbers[0] != numbers[1]
    for number in numbers:
        assert uuid.UUID(number.removeprefix("urn:uuid:")).version == 5


def test_a_license_goes_by_id_expression_or_name() -> None:
    """As precise as it is."""
    said = {"acknowledgement": "declared"}
    both = "Apache-2.0 OR BSD-2-Clause"
    nvidia = "LicenseRef-NVIDIA-Proprietary"
    assert licenses_of(nvidia) == [{"expression": nvidia, **said}]
    assert licenses_of("MIT") == [{"license": {"id": "MIT", **said}}]
    assert licenses_of(both) == [{"expression": both, **said}]
    assert licenses_of("BSD License") == [{"license": {"name": "BSD License", **said}}]
    assert licenses_of("") is None


# -- licenses


@pytest.mark.parametrize(
    "path",
    [
        "torch-2.13.0.dist-info/licenses/LICENSE",
        "torch-2.13.0.dist-info/licenses/third_party/fmt/LICENSE.rst",
        "av-18.1.0.dist-info/licenses/AUTHORS.py",
        "tqdm-4.70.1.dist-info/LICENCE",
        "nvidia_cublas-13.1.dist-info/License.txt",
        "boto3-1.0.dist-info/NOTICE",
        "old-1.0.dist-info/COPYING.LESSER",
        "old-1.0.dist-info/AUTHORS.md",
        "old-1.0.dist-info/license/qhull/COPYING.txt",
        "numpy/random/LICENSE.md",
        "numpy/_core/src/multiarray/dragon4_LICENSE.txt",
        "cv2/LICENSE-3RD-PARTY.txt",
        "onnxruntime/ThirdPartyNotices.txt",
    ],
)
def test_a_license_file_is_known_by_its_path(path: str) -> None:
    """In dist-info or beside what it is about."""
    assert sbom.is_license_file(path)


@pytest.mark.parametrize(
    "path",
    [
        "torch-2.13.0.dist-info/METADATA",
        "torch-2.13.0.dist-info/RECORD",
        "pip/_internal/licenses.py",
        "tool/notice.js",
        "tool/authorship.txt",
        "tool/licensing_server.txt",
        "licenses/data.bin",
    ],
)
def test_other_files_are_no_license_files(path: str) -> None:
    """Code and words that only look alike."""
    assert not sbom.is_license_file(path)


@pytest.mark.parametrize(
    ("name", "license", "is_one"),
    [
        ("nvidia-cublas", "LicenseRef-NVIDIA-Proprietary", True),
        ("nvidia-cusparselt-cu13", "NVIDIA Proprietary Software", True),
        ("nvidia-cufft", "Other/Proprietary License", True),
        ("cuda-toolkit", "", True),
        ("something", "Other/Proprietary License", True),
        ("nvidia-nvtx", "Apache-2.0", False),
        ("cuda-bindings", "Apache-2.0", False),
        ("torch", "BSD License", False),
        ("barracuda", "", False),
    ],
)
def test_what_is_proprietary_is_known(name: str, license: str, is_one: bool) -> None:
    """By what it says, and where NVIDIA says nothing, by whose it is."""
    assert sbom.is_proprietary(package(name, license)) is is_one


def test_the_report_begins_with_a_table() -> None:
    """Name, version and license, aligned; one that declares none says so."""
    assert sbom.license_report(HEAVY, []).splitlines()[:6] == [
        "Licences of kuwa-min 0.1.0, huggingface",
        "",
        "package        version  licence",
        "kuwa-min       0.1.0    MIT",
        "nvidia-cublas  13.1     (not stated)",
        "torch          2.13.0   BSD-3-Clause",
    ]


def test_the_notice_names_what_may_not_be_passed_on_freely() -> None:
    """NVIDIA's terms are explained where NVIDIA's packages are, and nowhere else."""
    assert "  nvidia-cublas 13.1: (not stated)\n" in sbom.license_report(HEAVY, [])
    assert "attachment A" in sbom.license_report(HEAVY, [])
    other: Manifest = {**EXAMPLE, "packages": [package("secret", "Proprietary")]}
    assert "  secret 1.0: Proprietary\n" in sbom.license_report(other, [])
    assert "attachment A" not in sbom.license_report(other, [])
    assert sbom.NO_NOTICE in sbom.license_report(EXAMPLE, [])


def test_a_text_stands_once_below_all_of_its_paths() -> None:
    """Sorted by path, whatever order they come in."""
    texts = [("c/NOTICE", "Other.\n"), ("b/LICENSE", "Same.\n"), ("a/LICENSE", "\nSame.")]
    made = sbom.license_report(EXAMPLE, texts)
    assert made == sbom.license_report(EXAMPLE, reversed(texts))
    rule = sbom.RULE
    assert made.endswith(
        f"{rule}\na/LICENSE\nb/LICENSE\n{rule}\n\nSame.\n\n{rule}\nc/NOTICE\n{rule}\n\nOther.\n"
    )
