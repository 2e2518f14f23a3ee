"""Read the header of a GGUF file: its tensors' sizes, and the fields that say what it is.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), all numbers little-endian:
"GGUF", version, number of tensors, number of fields; the fields (name, type, value); for each
tensor name, dimensions, type and offset; then, aligned, the tensors. No length or count in it is
trusted: nothing is read beyond the file's end, and none of them determines an allocation.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from typing import BinaryIO, NamedTuple

from .sniff import InvalidModelFile

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # unless the field general.alignment says otherwise
MAX_DIMENSIONS = 4
MAX_HEADER = 1 << 28  # bytes; large vocabularies take ten million
MAX_STRING = 1 << 16  # bytes of a name, or of the architecture; other strings are skipped
LENGTH = struct.Struct("<Q")  # of a string
BLOCK = 1 << 16  # bytes of an array that are read at once
ARCHITECTURE, ALIGNED = "general.architecture", "general.alignment"
FILE_TYPE, ADAPTER_TYPE, TOKENIZER = "general.type", "adapter.type", "tokenizer.ggml.model"
ADAPTER_ALPHA, ADAPTER_TRIGGER = "adapter.lora.alpha", "adapter.alora.invocation_tokens"
SPLIT_NUMBER, SPLIT_COUNT = "split.no", "split.count"
HAS_VISION, HAS_AUDIO = "clip.has_vision_encoder", "clip.has_audio_encoder"
PROJECTOR, VISION_PROJECTOR = "clip.projector_type", "clip.vision.projector_type"
POOLING = ".pooling_type"  # after the architecture's name
SAMPLING = "general.sampling."  # before the name of a generation option
KEPT = {
    ARCHITECTURE,
    ALIGNED,
    FILE_TYPE,
    ADAPTER_TYPE,
    ADAPTER_ALPHA,
    ADAPTER_TRIGGER,
    TOKENIZER,
    SPLIT_NUMBER,
    SPLIT_COUNT,
    HAS_VISION,
    HAS_AUDIO,
    PROJECTOR,
    VISION_PROJECTOR,
}
STRING, ARRAY = 8, 9
# Layout of a value by its type: u8 i8 u16 i16 u32 i32 f32 bool, u64 i64 f64.
LAYOUTS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
SINGLE_DIGITS = 7  # decimal digits of an f32
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

    fields: dict[str, str | float]  # those of KEPT, the pooling type, generation options
    tensors: int
    needed: int  # bytes of the file, as far as the tensors' types are known
    sizes: Mapping[str, int] = {}  # tensor name -> bytes; 0 for unknown types

    def text(self, name: str) -> str:
        """Return a field of text; "" if it is not there, or something else."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int:
        """Return a field with a number; 0 if it is not there, or something else."""
        value = self.fields.get(name)
        return value if isinstance(value, int) else 0


def read_header(file: BinaryIO, size: int) -> Header:
    """Read the header after the magic number; raises InvalidModelFile if it is damaged.

    size: of the file in bytes.
    """
    reader = _Reader(file, size)
    _, tensors, count = reader.take("<IQQ")
    fields: dict[str, str | float] = {}
    for _ in range(count):  # each takes bytes: a wrong count ends at the end of the file
        name, kind = reader.text(), reader.number()
        if name in KEPT or name.endswith(POOLING) or name.startswith(SAMPLING):
            fields[name] = reader.value(kind)
        else:
            reader.skip_value(kind)
    alignment = fields.get(ALIGNED, ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= MAX_STRING:
        raise reader.damage(f"an alignment of {alignment!r}")
    entries = [_tensor(reader) for _ in range(tensors)]
    start = -(-reader.position // alignment) * alignment
    end = start + max(one.offset + one.size for one in entries) if entries else reader.position
    return Header(fields, tensors, end, {one.name: one.size for one in entries})


class _Tensor(NamedTuple):
    name: str
    offset: int  # from the first tensor's start
    size: int  # bytes


def _tensor(reader: _Reader) -> _Tensor:
    """Read a tensor's entry."""
    name = reader.text()
    dimensions = reader.number()
    if dimensions > MAX_DIMENSIONS:
        raise reader.damage(f"a tensor of {dimensions} dimensions")
    shape = reader.take(f"<{dimensions}Q")
    kind, offset = reader.take("<IQ")
    return _Tensor(name, int(offset), _tensor_size(reader, shape, kind))


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

    def value(self, kind: int) -> str | float:
        """Return the next value if it is text or a number; skip an array, and return 0."""
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            self.skip_value(kind)
            return 0
        size = self._value_size(kind)
        (number,) = struct.unpack(f"<{LAYOUTS[kind]}", self._bytes(size))
        return float(f"{number:.{SINGLE_DIGITS}g}") if isinstance(number, float) else int(number)

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
        while count:  # vocabularies have 100,000 strings: fast for those within a block
            block = self._file.read(BLOCK)
            start = 0
            while count and start + LENGTH.size <= len(block):
                end = start + LENGTH.size + LENGTH.unpack_from(block, start)[0]
                if end > len(block):
                    break
                start, count = end, count - 1
            self._file.seek(start - len(block), os.SEEK_CUR)
            self._advance(start)
            if count:
                self._skip(self._length())
                count -= 1

    def _value_size(self, kind: int) -> int:
        if kind not in LAYOUTS:
            raise self.damage(f"a value of type {kind}")
        return struct.calcsize(f"<{LAYOUTS[kind]}")

    def _length(self) -> int:
        return int(LENGTH.unpack(self._bytes(LENGTH.size))[0])

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
