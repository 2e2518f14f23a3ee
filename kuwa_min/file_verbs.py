"""What a built file does about itself: verify, cache, unpack, --check and its papers.

Yields or returns text; cli prints it. A file that carries no libraries has nothing to unpack and
does not hold the modules for that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from zipimport import zipimporter

from .archive import Archive, damaged
from .errors import StartError, UsageError, WrongMachine
from .manifest import Payload, describe_fully, size_text
from .progress import Progress

if TYPE_CHECKING:
    from .cache import Entry

GIVES_A_ROOT = "the folder becomes a root for --root DIR or KUWA_MIN_ROOT"


def this_file() -> Archive:
    """Return the file that this program runs from; raises UsageError in a checkout."""
    loader = __spec__.loader
    if not isinstance(loader, zipimporter):
        raise UsageError("this is not a built file but its sources: build one (python build.py)")
    return Archive(str(Path(loader.archive).absolute()))


def info() -> str:
    """Return all that the manifest says."""
    return describe_fully(this_file().manifest)


def sbom() -> str:
    """Return the bill of materials, CycloneDX as JSON."""
    archive = _with_libraries(this_file())
    from . import inventory

    return inventory.sbom(archive.manifest).rstrip("\n")


def licences() -> str:
    """Return every package's licence and the texts that came with them."""
    archive = _with_libraries(this_file())
    from . import inventory

    texts = archive.texts(inventory.is_licence)
    return inventory.licences(archive.manifest, texts).rstrip("\n")


def _with_libraries(archive: Archive) -> Archive:
    """Refuse where the modules that would answer did not travel."""
    if archive.payloads:
        return archive
    name = Path(archive.path).name
    raise UsageError(
        "this file holds kuwa-min alone (MIT); its papers lie beside it where it was built: "
        f"{name}.cdx.json and {name}.licenses.txt"
    )


def check() -> Iterator[str]:
    """Yield a line for everything the file needs of this machine; raises WrongMachine at the end.

    Writes nothing and unpacks nothing.
    """
    archive = this_file()
    if not archive.payloads:
        yield "good: this file runs on every Python from 3.10 on and unpacks nothing"
        return
    from .unpacking import obstacles
    from .verdict import judge_machine, refusals

    findings = judge_machine(archive.manifest["built_for"])
    yield from (f"{finding.verdict}: {finding.line()}" for finding in findings)
    unpacked = {payload["id"]: _entries(archive, payload) for payload in archive.payloads}
    yield from (f"good: unpacked in {one.path}" for found in unpacked.values() for one in found)
    missing = [payload for payload in archive.payloads if not unpacked[payload["id"]]]
    reasons = obstacles(archive.path, missing) if missing else {}
    for root, reason in reasons.items():
        yield f"warning: no place: {reason}" if reason else f"good: can unpack to {root}"
    if refusals(findings) or (missing and all(reasons.values())):
        raise WrongMachine("this file cannot run here; the lines above say why and what to do")


def _entries(archive: Archive, payload: Payload) -> list[Entry]:
    """Return where a payload lies already, if what lies there may be run."""
    from .cache import Entry
    from .places import intruders, places

    entries = [Entry(root, payload["id"]) for root in places(archive.path)]
    return [one for one in entries if one.is_complete and not intruders(one.path)]


def verify(program: str, rest: list[str]) -> Iterator[str]:
    """Check the file against its .sha256 and its own sums, and what was unpacked, byte by byte."""
    about = "Check this file, and what it has unpacked; put back what is damaged."
    argparse.ArgumentParser(prog=program, description=about).parse_args(rest)
    archive = this_file()
    progress = Progress("reading the file")
    digest = archive.sha256(progress)
    progress.end()
    yield _compare(archive.path, digest)
    if archive.payloads:
        yield from _verify_trees(archive)


def _compare(path: str, digest: str) -> str:
    try:
        expected = Path(f"{path}.sha256").read_text(encoding="ascii").split()[0]
    except (OSError, ValueError, IndexError):
        return f"sha256 {digest}; there is no {Path(path).name}.sha256 beside it to compare with"
    if digest != expected:
        raise StartError(f"{damaged(path)}: its sha256 is {digest}, expected is {expected}")
    return f"sha256 {digest}, as {Path(path).name}.sha256 says"


def _verify_trees(archive: Archive) -> Iterator[str]:
    from .cache import Entry
    from .places import places
    from .unpacking import mend_deeply

    found = False
    for root in places(archive.path):
        for payload in archive.payloads:
            entry = Entry(root, payload["id"])
            if entry.is_complete:
                found = True
                entry.check()
                mended = mend_deeply(archive.path, payload["kind"], entry)
                state = f"put back: {mended}" if mended else "whole"
                yield f"{entry.path}: {payload['files']:,} files, {state}"
    if not found:
        yield "nothing is unpacked yet"


def cache(program: str, rest: list[str]) -> Iterator[str]:
    """List what was unpacked on this machine, and remove what is asked for."""
    archive = this_file()
    parser = argparse.ArgumentParser(
        prog=program,
        description="List what files have unpacked here; --clean removes what nobody uses.",
        allow_abbrev=False,
    )
    parser.add_argument("--clean", action="store_true", help="remove every entry not in use")
    options = parser.parse_args(rest)
    if not archive.payloads:
        yield "this file unpacks nothing and knows no cache; ask one that carries libraries"
        return
    from .cache import entries, prune, size_of
    from .places import places

    own = {payload["id"] for payload in archive.payloads}
    for root in places(archive.path):
        removed = prune(root, days=0, keep=0) if options.clean else []
        yield from (f"removed {entry.path}" for entry in removed)
        for entry in entries(root):
            used = time.strftime("%Y-%m-%d", time.localtime(entry.last_used))
            mine = "  (of this file)" if entry.key in own else ""
            yield f"{entry.path}  {size_text(size_of(entry)):>9}  last used {used}{mine}"


def unpack(program: str, rest: list[str]) -> Iterator[str]:
    """Unpack to a folder that may be read-only later, or be part of an image."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=f"Unpack what this file carries; {GIVES_A_ROOT}.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="DIR", help="made if absent")
    options = parser.parse_args(rest)
    archive = this_file()
    if not archive.payloads:
        yield "this file carries nothing to unpack"
        return
    from .unpacking import unpack_to

    for entry in unpack_to(archive.path, options.folder):
        yield f"{entry.path}: {GIVES_A_ROOT}"
