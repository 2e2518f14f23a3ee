"""Make wheels as large as CUDA's, of random bytes, under the names that huggingface requires.

Half of the bytes are stored and half deflated, which makes them no smaller. A twentieth is in small
files. They cannot be imported, only copied. Runs as a process of its own: what
it holds would count as held by whatever the benchmark starts next.
"""

import base64
import hashlib
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packing.heavy import BACKEND

VERSION = "99.0"  # above every floor
LARGE, SMALL = 64_000_000, 6_000  # bytes of a file
SMALL_SHARE = 0.05


def make_wheels(folder: Path, size: int) -> None:
    """Write a wheel for everything that the backend requires; together they have these bytes."""
    from kuwa_min.registry import backend_infos

    names = [*backend_infos()[BACKEND].requires]
    folder.mkdir()
    for number, name in enumerate(names):
        method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
        _make_wheel(folder, name, size // len(names), method)


def _make_wheel(folder: Path, name: str, size: int, method: int) -> None:
    info = f"{name}-{VERSION}.dist-info"
    path = folder / f"{name}-{VERSION}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for member, data in _members(name, size):
            archive.writestr(member, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
            record.append(f"{member},sha256={digest.decode()},{len(data)}")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {VERSION}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))


def _members(name: str, size: int) -> Iterator[tuple[str, bytes]]:
    for number in range(int(size * SMALL_SHARE) // SMALL):
        yield f"{name}/small/{number}.bin", os.urandom(SMALL)
    left = int(size * (1 - SMALL_SHARE))
    while left > 0:
        yield f"{name}/{left}.bin", os.urandom(min(LARGE, left))
        left -= LARGE


if __name__ == "__main__":
    make_wheels(Path(sys.argv[1]), int(sys.argv[2]))
