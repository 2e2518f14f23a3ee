"""Check a safetensors file by its header: the file contains every tensor that it lists.

The format: eight bytes with the header's length (little-endian), the header (JSON: for each
tensor its type, shape and `data_offsets`, counted from the header's end), the tensors one after
the other without a gap. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .sniff import InvalidModelFile, check_size, json_object, printable, read_head

LENGTH = 8  # bytes that state the length of the header
MAX_HEADER = 100_000_000  # bytes; the library has the same limit
MAX_OFFSET = 2**63
METADATA = "__metadata__"  # the one name that is no tensor


def check(path: Path) -> None:
    """Raise InvalidModelFile if the file is truncated, too long or no safetensors file at all."""
    head = read_head(path)
    size = path.stat().st_size
    length = int.from_bytes(head[:LENGTH], "little")
    if not (2 <= length <= MAX_HEADER and head[LENGTH : LENGTH + 1] == b"{"):
        raise InvalidModelFile(
            f"is no safetensors file: it begins with {head[:LENGTH]!r}; copy it again"
        )
    if size < LENGTH + length:
        raise InvalidModelFile(
            f"is truncated: more than {LENGTH + length:,} bytes are needed, {size:,} are there; "
            "copy it again"
        )
    needed = LENGTH + length + _data_size(_header(path, length))
    check_size(needed, size)
    if size > needed:
        raise InvalidModelFile(
            f"is too long: {needed:,} bytes are needed, {size:,} are there; copy it again"
        )


def _header(path: Path, length: int) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            file.seek(LENGTH)
            return json_object(file.read(length))
    except OSError as error:
        raise InvalidModelFile(f"cannot be read: {error.strerror}") from None
    except InvalidModelFile as error:
        raise InvalidModelFile(f"has a damaged header: it {error}") from None


def _data_size(header: dict[str, Any]) -> int:
    """Return the bytes of all tensors; raises InvalidModelFile for gaps and overlaps."""
    end = 0
    for first, last, name in sorted(_offsets(header)):
        if first != end:
            raise InvalidModelFile(
                f"has a damaged header: the tensor {printable(name)} begins at byte {first:,}, "
                f"the one before it ends at {end:,}; copy it again"
            )
        end = last
    return end


def _offsets(header: dict[str, Any]) -> Iterator[tuple[int, int, str]]:
    """Yield the first byte, the end and the name of each tensor."""
    for name, entry in header.items():
        if name == METADATA:
            continue
        match entry:
            case {"data_offsets": [int(first), int(last)]} if 0 <= first <= last < MAX_OFFSET:
                yield first, last, name
            case _:
                raise InvalidModelFile(
                    "has a damaged header: it does not say where the tensor "
                    f"{printable(name)} lies; copy it again"
                )
