"""Write a .pyz: shebang line, payloads, and the zip with the program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kuwa_min.bundle.manifest import Payload
from kuwa_min.packing.wheels.wheel import Content

from .core_zip import SHEBANG, zip_of
from .payload import Output, Written, write_payload


class Cargo(NamedTuple):
    """The kind and the files of a payload that is to be written."""

    kind: str  # "libraries" or "model"
    contents: Iterable[Content]


def write_file(
    target: Path, cargo: Sequence[Cargo], core: Callable[[list[Payload]], dict[str, bytes]]
) -> str:
    """Write a .pyz and its .sha256 atomically; return the SHA-256 in hex.

    core is called with the payloads, once their positions are known, and returns the entries of
    the zip. A process that runs from an old file of this name keeps its inode.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("wb") as file, Output(file) as out:
            if cargo:  # positions in a zip that follows gigabytes count from its own beginning
                out.write(SHEBANG)
            written = [(one.kind, write_payload(one.contents, out)) for one in cargo]
            payloads = [_payload(kind, one, out.position) for kind, one in written]
            out.write(zip_of(core(payloads), b"" if cargo else SHEBANG))
            digest = out.sha256()
        part.chmod(0o755)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    target.with_name(f"{target.name}.sha256").write_bytes(f"{digest}  {target.name}\n".encode())
    return digest


def _payload(kind: str, written: Written, zip_start: int) -> Payload:
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


def content_of(source: Path, path: str) -> Content:
    """Return a file on disk as one to be stored uncompressed, at this path of the tree."""
    size = source.stat().st_size
    return Content(path, False, size, size, 0, None, "", source, 0)
