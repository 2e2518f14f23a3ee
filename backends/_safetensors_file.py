"""Check a safetensors file by its header alone: that every tensor it names is inside.

The format: eight bytes with the header's length (little-endian), the header (JSON: for each
tensor its type, shape and `data_offsets`, counted from the header's end), the tensors one after
the other without a gap. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._file_start import Unusable, check_size, check_start, json_object, shown

LENGTH = 8  # bytes that say how long the header is
LONGEST_HEADER = 100_000_000  # the library refuses longer ones, too
MOST_BYTES = 2**63
METADATA = "__metadata__"  # the one name that is no tensor


def check(path: Path) -> None:
    """Raise Unusable if the file is truncated, too long or no safetensors file at all."""
    head = check_start(path)
    size = path.stat().st_size
    length = int.from_bytes(head[:LENGTH], "little")
    if not (2 <= length <= LONGEST_HEADER and head[LENGTH : LENGTH + 1] == b"{"):
        raise Unusable(f"is no safetensors file: it begins with {head[:LENGTH]!r}; copy it again")
    if size < LENGTH + length:
        raise Unusable(
            f"is truncated: more than {LENGTH + length:,} bytes are needed, {size:,} are there; "
            "copy it again"
        )
    needed = LENGTH + length + _data_size(_header(path, length))
    check_size(needed, size)
    if size > needed:
        raise Unusable(
            f"is too long: {needed:,} bytes are needed, {size:,} are there; copy it again"
        )


def _header(path: Path, length: int) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            file.seek(LENGTH)
            return json_object(file.read(length))
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None
    except Unusable as error:
        raise Unusable(f"has a damaged header: it {error}") from None


def _data_size(header: dict[str, Any]) -> int:
    """Return how many bytes the tensors take; raises Unusable if one lies where it cannot."""
    end = 0
    for first, last, name in sorted(_places(header)):
        if first != end:
            raise Unusable(
                f"has a damaged header: the tensor {shown(name)} begins at byte {first:,}, "
                f"the one before it ends at {end:,}; copy it again"
            )
        end = last
    return end


def _places(header: dict[str, Any]) -> Iterator[tuple[int, int, str]]:
    for name, entry in header.items():
        if name == METADATA:
            continue
        match entry:
            case {"data_offsets": [int(first), int(last)]} if 0 <= first <= last < MOST_BYTES:
                yield first, last, name
            case _:
                raise Unusable(
                    f"has a damaged header: it does not say where the tensor {shown(name)} lies; "
                    "copy it again"
                )
