"""Read ELF files: what a shared library exports, requires and was compiled for.

64-bit little-endian only. Like the dynamic loader it uses the program headers: section headers may
be stripped, and are outdated once patchelf has moved a table. pyelftools reads the section headers
first, at the end of the file, which costs a member of a zip a second inflation: 8 to 27 times the
time of this module for the wheels of numpy, grpcio, cryptography and llama-cpp-python.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import IO, NamedTuple, cast

MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little endian
EXECUTABLE, SHARED = 2, 3
MACHINES = {21: "ppc64le", 62: "x86_64", 183: "aarch64", 243: "riscv64", 258: "loongarch64"}
LOAD, DYNAMIC = 1, 2  # segments
NEEDED, HASH, STRTAB, SYMTAB, STRSZ, SONAME = 1, 4, 5, 6, 10, 14  # tags of the dynamic segment
GNU_HASH, VERNEED = 0x6FFFFEF5, 0x6FFFFFFE
WEAK_VERSION = 2  # flag: the loader does not require it
FUNCTION = 2  # type of a symbol

# Exported functions of interest. PyInitU_ is for names beyond ASCII, PyModExport_ for Python 3.15
# and later.
MODULE = re.compile(rb"(?:PyInitU?|PyModExport)_(\w+)")
CPU_FEATURE = re.compile(rb"ggml_cpu_has_\w+")
# What gcc compiles `return 0` and `return 1` to, from -O0 -fcf-protection to -O3.
RETURN = re.compile(
    rb"(?:\xf3\x0f\x1e\xfa)?(?:\x55\x48\x89\xe5)?(?:\xb8(.{4})|[\x31\x33]\xc0)\x5d?\xc3", re.DOTALL
)
RETURN_LENGTH = 16  # bytes, at most

SEEK_STEP = 1 << 20  # bytes inflated at once in a seek
WINDOW = 4 << 20  # bytes buffered around the dynamic segment; patchelf puts the names beside it
# Limits; a file beyond them is malformed.
FARTHEST = 1 << 34  # bytes into a file
LARGEST = 1 << 26  # bytes of a table
VERSIONS = 1 << 16  # bytes of the version requirements, whose size no header has
MOST = 1000  # versions of one library
CHAIN = 1 << 12  # bytes of one hash chain


class Elf(NamedTuple):
    """The facts of one library."""

    machine: str  # as os.uname() spells it; "" for an unsupported one
    soname: str  # "" without
    needed: tuple[str, ...]  # sonames
    versions: dict[str, frozenset[str]]  # soname: the symbol versions required of it
    modules: tuple[str, ...]  # Python modules that it defines
    constants: dict[str, int]  # results of ggml_cpu_has_*(), on x86-64


class _Symbol(NamedTuple):
    """An exported function and the address of its code."""

    address: int
    name: bytes


def read_elf(data: bytes | memoryview) -> Elf | None:
    """Read a library; None if it is no shared library or executable, or a truncated one."""
    return read_elf_file(io.BytesIO(data))


def read_elf_file(file: IO[bytes]) -> Elf | None:
    """Read a library from a seekable file; None as read_elf.

    The file may be a member of a zip, which seeking back inflates again: so reading goes forward,
    and a window around the dynamic segment, near the end, is buffered. The tables that it points to
    are at the beginning of the file, or beside it.
    """
    window = io.BufferedReader(cast(io.RawIOBase, file), WINDOW)
    try:
        return _Reader(window).read_all()
    except (struct.error, ValueError, OverflowError):
        return None
    finally:
        window.detach()  # the file stays its owner's


class _Reader:
    """Locate the tables of a library by its program headers."""

    def __init__(self, file: io.BufferedReader[io.RawIOBase]) -> None:
        self.file = file
        self.machine, programs = self._header()
        segments = list(struct.iter_unpack("<IIQQQQQQ", programs))
        self.loads: list[tuple[int, int, int]] = [
            (s[3], s[2], s[5]) for s in segments if s[0] == LOAD
        ]
        self.dynamic = [(s[2], s[5]) for s in segments if s[0] == DYNAMIC]

    def _header(self) -> tuple[str, bytes]:
        """Return the machine, and the program headers as bytes."""
        head = self.file.read(64)
        kind, machine, _, _, start = struct.unpack_from("<HHIQQ", head, 16)
        if not head.startswith(MAGIC) or kind not in (EXECUTABLE, SHARED):
            raise ValueError
        size, count = struct.unpack_from("<HH", head, 54)
        if size != 56:
            raise ValueError
        return MACHINES.get(machine, ""), self._read_exactly(start, size * count)

    def read_all(self) -> Elf:
        """Read all facts; raises ValueError or struct.error if the file is malformed."""
        if not self.dynamic:
            return Elf(self.machine, "", (), {}, (), {})  # statically linked
        entries = self._dynamic()
        tags = dict(entries)
        names = self._names(tags)
        functions = self._functions(tags, names)
        return Elf(
            machine=self.machine,
            soname=_name(names, tags[SONAME]) if SONAME in tags else "",
            needed=tuple(_name(names, value) for tag, value in entries if tag == NEEDED),
            versions=self._versions(self._offset(tags[VERNEED]), names) if VERNEED in tags else {},
            modules=tuple(sorted(_modules(functions))),
            constants=dict(self._constants(functions)) if self.machine == "x86_64" else {},
        )

    def _names(self, tags: dict[int, int]) -> bytes:
        """Return the string table."""
        if STRTAB not in tags:
            return b""
        return self._read_exactly(self._offset(tags[STRTAB]), tags[STRSZ])

    def _dynamic(self) -> list[tuple[int, int]]:
        offset, size = self.dynamic[0]
        self._read_up_to(max(0, offset - WINDOW // 2), 1)  # fills the buffer
        return list(struct.iter_unpack("<QQ", self._read_exactly(offset, size - size % 16)))

    def _seek_forward(self, offset: int) -> None:
        """Seek in steps, because zipfile inflates up to 16 MiB at once, in three copies."""
        for place in range(self.file.tell() + SEEK_STEP, offset, SEEK_STEP):
            self.file.seek(place)
        self.file.seek(offset)

    def _read_up_to(self, offset: int, size: int) -> bytes:
        """Read up to size bytes."""
        if size > LARGEST or offset > FARTHEST:
            raise ValueError
        self._seek_forward(offset)
        return self.file.read(size)

    def _read_exactly(self, offset: int, size: int) -> bytes:
        data = self._read_up_to(offset, size)
        if len(data) < size:
            raise ValueError
        return data

    def _offset(self, address: int) -> int:
        """Return the offset in the file of a virtual address."""
        for start, offset, size in self.loads:
            if start <= address < start + size:
                return address - start + offset
        raise ValueError

    def _versions(self, offset: int, names: bytes) -> dict[str, frozenset[str]]:
        table, place, found = self._read_up_to(offset, VERSIONS), 0, {}
        while True:
            _, count, library, first, following = struct.unpack_from("<HHIII", table, place)
            versions = _needed_versions(table, place + first, count)
            found[_name(names, library)] = frozenset(_name(names, name) for name in versions)
            if following < struct.calcsize("<HHIII"):
                return found
            place += following

    def _functions(self, tags: dict[int, int], names: bytes) -> list[_Symbol]:
        """Return the functions of interest; most libraries have none, and then no table is read."""
        if SYMTAB not in tags or not (MODULE.search(names) or CPU_FEATURE.search(names)):
            return []
        table = self._read_exactly(self._offset(tags[SYMTAB]), 24 * self._count(tags))
        return sorted(_of_interest(table, names))

    def _count(self, tags: dict[int, int]) -> int:
        """Return the number of symbols, which follows from the hash tables."""
        if HASH in tags:
            return int.from_bytes(self._read_exactly(self._offset(tags[HASH]) + 4, 4), "little")
        if GNU_HASH not in tags:
            return 0
        start = self._offset(tags[GNU_HASH])
        buckets, first, bloom = struct.unpack("<III4x", self._read_exactly(start, 16))
        table = self._read_exactly(start + 16 + 8 * bloom, 4 * buckets)
        last = max(struct.unpack(f"<{buckets}I", table), default=0)
        if last < first:
            return 0  # it exports nothing
        chain = start + 16 + 8 * bloom + 4 * (buckets + last - first)
        return int(last) + 1 + self._chain_length(chain)

    def _chain_length(self, offset: int) -> int:
        """Return how many entries follow in a hash chain; the last one has its low bit set."""
        table = self._read_up_to(offset, CHAIN)
        for place in range(0, len(table), 4):
            if table[place] & 1:
                return place // 4
        raise ValueError

    def _constants(self, functions: list[_Symbol]) -> Iterator[tuple[str, int]]:
        for address, name in functions:
            if CPU_FEATURE.fullmatch(name):
                body = RETURN.match(self._read_up_to(self._offset(address), RETURN_LENGTH))
                if body:
                    yield name.decode(), int.from_bytes(body[1] or b"", "little")


def _name(names: bytes, start: int) -> str:
    return names[start : names.index(b"\0", start)].decode()


def _needed_versions(table: bytes, place: int, count: int) -> Iterator[int]:
    """Yield the string offsets of the versions that are required of one library."""
    for _ in range(min(count, MOST)):
        _, flags, _, name, following = struct.unpack_from("<IHHII", table, place)
        if not flags & WEAK_VERSION:
            yield name
        place += following


def _of_interest(table: bytes, names: bytes) -> Iterator[_Symbol]:
    for start, info, _, section, address, _ in struct.iter_unpack("<IBBHQQ", table):
        if section and info & 15 == FUNCTION:
            name = names[start : names.index(b"\0", start)]
            if MODULE.fullmatch(name) or CPU_FEATURE.fullmatch(name):
                yield _Symbol(address, name)


def _modules(functions: list[_Symbol]) -> set[str]:
    found = (MODULE.fullmatch(function.name) for function in functions)
    return {match[1].decode() for match in found if match}
