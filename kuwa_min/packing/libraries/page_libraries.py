"""The libraries of the chat page: npm packages, pinned by hash, fetched by npm at build time.

They travel in the zip beside the page's own files, unchanged, with their licences. A file without
them shows answers as plain text.
"""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kuwa_min.bundle.manifest import Package
from kuwa_min.errors import UsageError

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

ZIP_FOLDER = "site-packages/kuwa_min/kernel/page/libraries"
NPM_FOLDER = "package"  # at the top of every npm package
TIMEOUT = 120.0  # seconds of npm
PLAIN = "the chat page will show plain text"


class NpmPackage(NamedTuple):
    """An npm package, and which of its files travel.

    integrity: as `npm view NAME@VERSION dist.integrity` says. module: the ES module that the page
    imports as libraries/<file>. licenses: the license files.
    """

    name: str
    version: str
    integrity: str
    license: str  # an SPDX expression
    module: str
    file: str
    licenses: tuple[str, ...]

    @property
    def archive(self) -> str:
        """Return the file name that `npm pack` gives."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    NpmPackage(
        "marked",
        "18.2.1",
        "sha512-ii4bxCTCqqwpT86XZWgJNs+ZnAIZksmLGYMViWA7PDIXYIeNo1x6cDdX3JOip9NM"
        "/cI6p8z57FxliACboTruMA==",
        "MIT",
        "lib/marked.esm.js",
        "marked.js",
        ("LICENSE",),
    ),
    NpmPackage(
        "dompurify",
        "3.5.0",
        "sha512-LYC0ZkE8P1V42JsRYTwMdme/2ET8SpOc5AA2eOFjP/IadvRd2fwiT4TVz5vkfy0X"
        "Ux12aS2UaRkTnfVPNOv9vw==",
        "MPL-2.0 OR Apache-2.0",
        "dist/purify.es.mjs",
        "purify.js",
        ("LICENSE", "LICENSE-MPL"),
    ),
    NpmPackage(
        "@highlightjs/cdn-assets",
        "11.12.0",
        "sha512-KvOKXODaiFmId9xaq3xc5xCL66wVLUuOngDbO9B/kewbFTqdGbn2nJxNhN3H5R1c"
        "gDTVj6R8vH0zgiNDEGjpDw==",
        "BSD-3-Clause",
        "es/highlight.min.js",
        "highlight.js",
        ("LICENSE",),
    ),
)


class PageLibraries(NamedTuple):
    """Entries of the zip by name, and the packages that they come from."""

    entries: dict[str, bytes]
    packages: list[Package]


NO_PAGE_LIBRARIES = PageLibraries({}, [])


class Unavailable(UsageError):
    """Report that npm is missing or has failed."""


def find_page_libraries(
    cache: Path, *, no_index: bool, log_step: LogStep, packages: tuple[NpmPackage, ...] = PACKAGES
) -> PageLibraries:
    """Return the libraries from the cache, which npm fills; raises Unavailable, UsageError.

    no_index: use the cache only.
    """
    missing = [one for one in packages if not (cache / one.archive).is_file()]
    if missing and no_index:
        raise Unavailable(f"{cache} lacks {missing[0].archive}, and --no_index forbids to fetch it")
    if missing:
        log_step(f"fetching {', '.join(one.name for one in missing)} for the chat page")
        _fetch(missing, cache)
    entries: dict[str, bytes] = {}
    described = []
    for one in packages:
        content = _verified(one, cache / one.archive)
        entries |= _entries(one, content)
        described.append(_package(one, content))
    return PageLibraries(entries, described)


def _fetch(packages: list[NpmPackage], cache: Path) -> None:
    """Download packages into the cache, each whole; their hashes are compared on reading."""
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm is missing (Debian: apt-get install npm)")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="npm-", dir=cache) as folder:
        _pack(npm, packages, folder)
        for one in packages:
            if not Path(folder, one.archive).is_file():
                raise Unavailable(f"npm wrote no {one.archive}")
            Path(folder, one.archive).replace(cache / one.archive)


def _pack(npm: str, packages: list[NpmPackage], folder: str) -> None:
    """Run `npm pack` with the registry that npm is configured for; raises Unavailable."""
    command = [npm, "pack", "--fetch-retries=1", "--prefer-offline"]
    command += [f"{one.name}@{one.version}" for one in packages]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"npm took longer than {TIMEOUT:g} s") from None
    if done.returncode:
        lines = [line.removeprefix("npm error").strip() for line in done.stderr.splitlines()]
        said = [line for line in lines if line and not line.startswith(("errno", "syscall"))]
        raise Unavailable(f"npm failed: {'; '.join(said[:2]) or 'no reason given'}")


def _verified(package: NpmPackage, archive: Path) -> bytes:
    """Return the content of an archive; raises UsageError if its hash is not the pinned one."""
    content = archive.read_bytes()
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != package.integrity:
        raise UsageError(
            f"{archive} is not {package.name} {package.version} as it was pinned: its hash is "
            f"{found}; remove it and build again"
        )
    return content


def _entries(package: NpmPackage, content: bytes) -> dict[str, bytes]:
    """Return the entries of one package; content: of its archive."""
    stem = package.file.removesuffix(".js")
    places = {package.module: f"{ZIP_FOLDER}/{package.file}"}
    places |= {name: f"{ZIP_FOLDER}/{stem}.{name}.txt" for name in package.licenses}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        files = {name: tar.extractfile(f"{NPM_FOLDER}/{name}") for name in places}
        return {places[name]: file.read() for name, file in files.items() if file}


def _package(package: NpmPackage, content: bytes) -> Package:
    return {
        "name": package.name,
        "version": package.version,
        "wheel": package.archive,
        "sha256": hashlib.sha256(content).hexdigest(),
        "license": package.license,
        "spdx": True,
    }
