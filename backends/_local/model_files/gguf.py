"""Check a GGUF file by its header: the file contains every tensor that it lists.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), all numbers little-endian:
"GGUF", version, number of tensors, number of fields; the fields (name, type, value); for each
tensor name, dimensions, type and offset; then, aligned, the tensors. No length or count in it is
trusted: nothing is read beyond the file's end, and none of them determines an allocation.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .sniff import HEAD, InvalidModelFile, check_no_placeholder, check_size, join_names, read_head

MAGIC = b"GGUF"
VERSIONS = (2, 3)
PART = re.compile(r"(.*-)(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
ALIGNMENT = 32  # unless the field general.alignment says otherwise
MAX_DIMENSIONS = 4
MAX_HEADER = 1 << 28  # bytes; large vocabularies take ten million
MAX_STRING = 1 << 16  # bytes of a name, or of the architecture; other strings are skipped
ARCHITECTURE, ALIGNED = "general.architecture", "general.alignment"
U32, STRING, ARRAY = 4, 8, 9
# Bytes of a value by its type: u8 i8 u16 i16 u32 i32 f32 bool, u64 i64 f64.
VALUE_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
# Values in a block and bytes of it, by the number that ggml gives the tensor type.
BLOCKS = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 36),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
    42: (64, 18),  # Q2_0
}


class Header(NamedTuple):
    """What the header of a GGUF file states."""

    architecture: str  # "llama"; "" if it is not stated
    needed: int  # bytes of the file, as far as the tensors' types are known


def check(path: Path) -> str:
    """Check a file and its further parts; return the architecture. Raises InvalidModelFile."""
    read_head(path)
    for part in parts(path)[1:]:
        try:
            _check_one(part)
        except InvalidModelFile as error:
            raise InvalidModelFile(f"has further parts: {part.name} {error}") from None
    return _check_one(path)


def parts(path: Path) -> list[Path]:
    """Return the file and its further parts by their names; raises InvalidModelFile."""
    named = PART.fullmatch(path.name)
    if named is None:
        return [path]
    start, number, count = named[1], int(named[2]), int(named[3])
    if number != 1:
        first = path.with_name(f"{start}00001-of-{named[3]}.gguf")
        raise InvalidModelFile(f"is part {number} of {count}; the first one is needed: {first}")
    found = [
        path.with_name(f"{start}{one:05}-of-{named[3]}.gguf") for one in range(1, count + 1)
    ] or [path]
    missing = [one.name for one in found if not one.is_file()]
    if missing:
        raise InvalidModelFile(
            f"is one of {count} parts, of which {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: {join_names(missing)}; copy them, too"
        )
    return found


def _check_one(path: Path) -> str:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            _check_version(file.read(HEAD), size)
            file.seek(len(MAGIC))
            header = read_header(file, size)
    except OSError as error:
        raise InvalidModelFile(f"cannot be read: {error.strerror}") from None
    check_size(header.needed, size)
    return header.architecture


def _check_version(head: bytes, size: int) -> None:
    check_no_placeholder(head, size)
    if not head.startswith(MAGIC):
        raise InvalidModelFile(f"is not a GGUF file: it begins with {head[:4]!r}")
    number = head[len(MAGIC) : len(MAGIC) + 4]
    if len(number) < 4:
        return  # what comes next says that it is truncated
    if int.from_bytes(number, "big") in VERSIONS:
        raise InvalidModelFile("is a GGUF file for big-endian machines; convert it for this one")
    version = int.from_bytes(number, "little")
    if version not in VERSIONS:
        raise InvalidModelFile(f"is GGUF version {version}; 2 and 3 can be read")


def read_header(file: BinaryIO, size: int) -> Header:
    """Read the header after the magic number; raises InvalidModelFile if it is damaged.

    size: of the file in bytes.
    """
    reader = _Reader(file, size)
    _, tensors, fields = reader.take("<IQQ")
    architecture, alignment = "", ALIGNMENT
    for _ in range(fields):  # each takes bytes: a wrong count ends at the end of the file
        name, kind = reader.text(), reader.number()
        if (name, kind) == (ARCHITECTURE, STRING):
            architecture = reader.text()
        elif (name, kind) == (ALIGNED, U32):
            alignment = reader.number()
        else:
            reader.skip_value(kind)
    if not 1 <= alignment <= MAX_STRING:
        raise reader.damage(f"an alignment of {alignment}")
    ends = [_tensor_end(reader) for _ in range(tensors)]
    start = -(-reader.position // alignment) * alignment
    return Header(architecture, start + max(ends) if ends else reader.position)


def _tensor_end(reader: _Reader) -> int:
    """Read a tensor's entry; return the offset of its end from the first tensor's start."""
    reader.text()
    dimensions = reader.number()
    if dimensions > MAX_DIMENSIONS:
        raise reader.damage(f"a tensor of {dimensions} dimensions")
    shape = reader.take(f"<{dimensions}Q")
    kind, offset = reader.take("<IQ")
    return int(offset) + _tensor_size(reader, shape, kind)


def _tensor_size(reader: _Reader, shape: Sequence[int], kind: int) -> int:
    """Return the bytes of a tensor; 0 for an unknown type, which is newer than this program."""
    if kind not in BLOCKS:
        return 0
    values, block = BLOCKS[kind]
    if shape and shape[0] % values:
        raise reader.damage(f"a tensor row of {shape[0]:,} values in blocks of {values}")
    return math.prod(shape) // values * block


class _Reader:
    """Reads values one after the other, never beyond the end of the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.position = file.tell()

    def take(self, layout: str) -> tuple[int, ...]:
        """Return the next numbers, in a layout of struct."""
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))

    def number(self) -> int:
        """Return the next u32."""
        return int.from_bytes(self._bytes(4), "little")

    def text(self) -> str:
        """Return the next string, of MAX_STRING at most."""
        length = self._length()
        if length > MAX_STRING:
            raise self.damage(f"a name of {length:,} bytes")
        return self._bytes(length).decode(errors="replace")

    def skip_value(self, kind: int) -> None:
        """Skip a value of this type."""
        if kind == STRING:
            self._skip(self._length())
        elif kind == ARRAY:
            self._skip_array(*self.take("<IQ"))
        else:
            self._skip(self._value_size(kind))

    def damage(self, what: str) -> InvalidModelFile:
        """Return the error for an impossible value at the current position."""
        return InvalidModelFile(
            f"is damaged: it names {what} at byte {self.position:,}; copy it again"
        )

    def _skip_array(self, kind: int, count: int) -> None:
        if kind != STRING:
            self._skip(self._value_size(kind) * count)
            return
        for _ in range(count):  # each takes eight bytes or more
            self._skip(self._length())

    def _value_size(self, kind: int) -> int:
        if kind not in VALUE_SIZES:
            raise self.damage(f"a value of type {kind}")
        return VALUE_SIZES[kind]

    def _length(self) -> int:
        return int.from_bytes(self._bytes(8), "little")

    def _bytes(self, count: int) -> bytes:
        self._advance(count)
        return self._file.read(count)

    def _skip(self, count: int) -> None:
        self._advance(count)
        self._file.seek(count, os.SEEK_CUR)

    def _advance(self, count: int) -> None:
        if self.position + count > MAX_HEADER:
            raise self.damage("more than a head can hold")
        self.position += count
        if self.position > self._size:
            raise InvalidModelFile(
                f"is truncated or damaged: more than {self.position:,} bytes are needed, "
                f"{self._size:,} are there; copy it again"
            )
