"""The commands of a built file about itself: verify, cache, unpack, --check and its documents.

They return or yield the text that the command line prints. A file without libraries lacks the
modules to unpack some; they are imported where a payload needs them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from zipimport import zipimporter

from kuwa_min.errors import StartError, UsageError, WrongMachine
from kuwa_min.log.parser import SafeParser
from kuwa_min.progress import Progress, step_logger

from .archive import Archive, damaged
from .manifest import Payload, describe_fully, is_from_npm, size_text

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

    from .cache import Entry

BECOMES_A_ROOT = "the folder becomes a root for --root DIR or KUWA_MIN_ROOT"


def this_file() -> Archive:
    """Return the built file that this program runs from; raises UsageError in a checkout."""
    loader = __spec__.loader
    if not isinstance(loader, zipimporter):
        raise UsageError("this is not a built file but its sources: build one (python build.py)")
    return Archive(str(Path(loader.archive).absolute()))


def info() -> str:
    """Return the text of --info: what the manifest says."""
    return describe_fully(this_file().manifest)


def sbom() -> str:
    """Return the text of --sbom: the bill of materials, CycloneDX as JSON."""
    from .sbom import bill_of_materials

    return bill_of_materials(this_file().manifest).rstrip("\n")


def licenses() -> str:
    """Return the text of --licenses: every package's license, and the license texts inside."""
    from .sbom import is_license_file, license_report

    archive = this_file()
    return license_report(archive.manifest, archive.texts(is_license_file)).rstrip("\n")


def carried_packages() -> list[str] | None:
    """Return the names of the packages in this file; None if it uses those of the host, too."""
    manifest = this_file().manifest
    if manifest["host_packages"]:
        return None
    return [one["name"] for one in manifest["packages"] if not is_from_npm(one)]


def carries_model() -> bool:
    """Tell whether this file has a model inside."""
    return any(payload["kind"] == "model" for payload in this_file().payloads)


def check() -> Iterator[str]:
    """Yield the lines of --check, one per requirement; raises WrongMachine after the last.

    Writes and unpacks nothing.
    """
    archive = this_file()
    if not archive.payloads:
        yield "good: this file runs on every Python from 3.10 on and unpacks nothing"
        return
    from .preflight import check_host, refusals
    from .provision import reasons_unusable

    results = check_host(archive.manifest["built_for"])
    yield from (f"{result.status}: {result.line()}" for result in results)
    unpacked = {payload["id"]: _trusted_entries(archive, payload) for payload in archive.payloads}
    yield from (f"good: unpacked in {one.path}" for found in unpacked.values() for one in found)
    missing = [payload for payload in archive.payloads if not unpacked[payload["id"]]]
    reasons = reasons_unusable(archive.path, missing) if missing else {}
    for root, reason in reasons.items():
        yield f"warning: no place: {reason}" if reason else f"good: can unpack to {root}"
    if refusals(results) or (missing and all(reasons.values())):
        raise WrongMachine("this file cannot run here; the lines above say why and what to do")


def _trusted_entries(archive: Archive, payload: Payload) -> list[Entry]:
    """Return the complete entries of a payload that no other user could change."""
    from .cache import Entry
    from .cache_root import cache_roots

    entries = [Entry(root, payload["id"]) for root in cache_roots(archive.path)]
    return [one for one in entries if one.is_complete and not one.reason_untrusted]


def verify(program: str, arguments: list[str]) -> Iterator[str]:
    """Compare the file with its .sha256 and its checksums, and what was unpacked with the file.

    Yields the lines to print. Raises StartError if the file is damaged; repairs what was unpacked.
    With --signers, a kit is compared with its signature first: this file's, or another one.
    """
    about = "Check this file, and what it has unpacked; put back what is damaged."
    parser = SafeParser(prog=f"{program} verify", description=about, allow_abbrev=False)
    parser.add_argument(
        "--signers", metavar="FILE", type=Path,
        help="compare the kit with its signature by one of these (an allowed_signers file)",
    )  # fmt: skip
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, help="that kit alone")
    options = parser.parse_args(arguments)
    if options.folder and not options.signers:
        parser.error("a folder is checked with --signers FILE")
    if options.signers:
        folder = options.folder or Path(this_file().path).parent
        yield from _verify_kit(folder, options.signers)
    if options.folder:
        return
    archive = this_file()
    progress = Progress("reading the file")
    digest = archive.sha256(progress)
    progress.end()
    compared = _compare_sha256(archive.path, digest)
    archive.compare_core()
    yield compared
    if archive.payloads:
        yield from _verify_entries(archive, step_logger(program))


def _verify_kit(folder: Path, signers: Path) -> Iterator[str]:
    """Compare a kit with its signature; yield a line for each fault, and raise StartError then."""
    from .signed_kit import check_signature, differences

    faults = []
    try:
        yield f"good: {check_signature(folder, signers)}"
        if signers.resolve().parent == folder.resolve():
            yield "warning: that file came with the kit: ask its maker whether the key is theirs"
    except StartError as error:
        faults.append(str(error))
        yield f"fault: {error}"
    for line in differences(folder, Progress("reading the kit")):
        faults.append(line)
        yield f"fault: {line}"
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}, named above"
        raise StartError(f"do not use the kit {folder} ({count}): have it copied or made again")
    yield f"good: every file of {folder} is what was signed, and there is no other"


def _compare_sha256(path: str, digest: str) -> str:
    try:
        expected = Path(f"{path}.sha256").read_text(encoding="ascii").split()[0]
    except (OSError, ValueError, IndexError):
        return f"sha256 {digest}; there is no {Path(path).name}.sha256 beside it to compare with"
    if digest != expected:
        raise StartError(f"{damaged(path)}: its sha256 is {digest}, expected is {expected}")
    return f"sha256 {digest}, as {Path(path).name}.sha256 says"


def _verify_entries(archive: Archive, log_step: LogStep) -> Iterator[str]:
    from .cache import Entry
    from .cache_root import cache_roots
    from .provision import repair_corrupted

    found = False
    for root in cache_roots(archive.path):
        for payload in archive.payloads:
            entry = Entry(root, payload["id"])
            if entry.is_complete:
                found = True
                entry.ensure_trusted(log_step)
                repaired = repair_corrupted(archive.path, payload["kind"], entry, log_step)
                state = f"put back: {repaired}" if repaired else "whole"
                yield f"{entry.path}: {payload['files']:,} files, {state}"
    if not found:
        yield "nothing is unpacked yet"


def cache(program: str, arguments: list[str]) -> Iterator[str]:
    """List the entries of all files in this file's cache roots; --clean removes the unused."""
    archive = this_file()
    parser = SafeParser(
        prog=f"{program} cache",
        description="List what files have unpacked here; --clean removes what is not in use.",
        allow_abbrev=False,
    )
    parser.add_argument("--clean", action="store_true", help="remove every entry not in use")
    options = parser.parse_args(arguments)
    if not archive.payloads:
        yield "this file unpacks nothing and knows no cache; ask one that carries libraries"
        return
    from .cache import disk_usage, entries, prune
    from .cache_root import cache_roots

    own = {payload["id"] for payload in archive.payloads}
    for root in cache_roots(archive.path):
        removed = prune(root, days=0, keep=0) if options.clean else []
        yield from (f"removed {entry.path}" for entry in removed)
        for entry in entries(root):
            used = time.strftime("%Y-%m-%d", time.localtime(entry.last_used))
            mine = "  (of this file)" if entry.key in own else ""
            yield f"{entry.path}  {size_text(disk_usage(entry)):>9}  last used {used}{mine}"


def unpack(program: str, arguments: list[str]) -> Iterator[str]:
    """Unpack to a folder that may be read-only later, or be part of an image."""
    parser = SafeParser(
        prog=f"{program} unpack",
        description=f"Unpack what this file carries; {BECOMES_A_ROOT}.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="DIR", help="made if absent")
    options = parser.parse_args(arguments)
    archive = this_file()
    if not archive.payloads:
        yield "this file carries nothing to unpack"
        return
    from .provision import unpack_to

    for entry in unpack_to(archive.path, options.folder, step_logger(program)):
        yield f"{entry.path}: {BECOMES_A_ROOT}"
