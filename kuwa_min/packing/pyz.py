"""Write a .pyz: shebang line, payloads, and the zip with the program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kuwa_min.bundle.manifest import Payload
from kuwa_min.packing.wheels.wheel import PayloadFile

from .core_zip import SHEBANG, zip_of
from .payload import Output, PayloadInfo, write_payload


class PayloadSpec(NamedTuple):
    """The kind and the files of a payload that is to be written."""

    kind: str  # "libraries", "model" or "executor"
    files: Iterable[PayloadFile]


def write_file(
    path: Path, specs: Sequence[PayloadSpec], core: Callable[[list[Payload]], dict[str, bytes]]
) -> str:
    """Write a .pyz and its .sha256 atomically; return the SHA-256 in hex.

    core is called with the payloads, once their positions are known, and returns the entries of
    the zip. A process that runs from an old file of this name keeps its inode.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file, Output(file) as out:
            if specs:  # positions in a zip that follows gigabytes count from its own beginning
                out.write(SHEBANG)
            written = [(one.kind, write_payload(one.files, out)) for one in specs]
            payloads = [_payload(kind, one, out.position) for kind, one in written]
            out.write(zip_of(core(payloads), b"" if specs else SHEBANG))
            digest = out.sha256()
        part.chmod(0o755)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    write_document(path.with_name(f"{path.name}.sha256"), f"{digest}  {path.name}\n")
    return digest


def write_document(path: Path, text: str) -> None:
    """Write a text beside a .pyz, as a new file: a kit may have the old one as a hard link."""
    path.unlink(missing_ok=True)
    path.write_bytes(text.encode())


def _payload(kind: str, written: PayloadInfo, zip_start: int) -> Payload:
    return {
        "kind": kind,
        "id": written.id,
        "position": zip_start - written.start,
        "index_position": zip_start - written.index_start,
        "index_size": written.index_size,
        "files": written.files,
        "folders": written.folders,
        "bytes": written.bytes,
        "sha256": written.sha256,
    }


def stored_file(source: Path, path: str) -> PayloadFile:
    """Return a file on disk as one to be stored uncompressed, at this path of the tree."""
    size = source.stat().st_size
    return PayloadFile(path, False, size, size, 0, None, "", source, 0)
