"""Read ELF files: what a shared library offers, needs and was compiled for.

64 bits, little endian. Like the loader it believes the program headers alone: section headers go
when a library is stripped, and stay behind when patchelf moves a table.
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
NEEDED, HASH, STRTAB, SYMTAB, STRSZ, SONAME = 1, 4, 5, 6, 10, 14  # entries of the dynamic segment
GNU_HASH, VERNEED = 0x6FFFFEF5, 0x6FFFFFFE
WEAK_VERSION = 2  # the loader goes on without such a one
FUNCTION = 2

# What the names of a library's functions tell. PyInitU_ is for names beyond ASCII, PyModExport_ for
# Python 3.15 and later.
MODULE = re.compile(rb"(?:PyInitU?|PyModExport)_(\w+)")
CONSTANT = re.compile(rb"ggml_cpu_has_\w+")
# All that gcc makes of `return 0` and `return 1`, from -O0 -fcf-protection to -O3.
RETURN = re.compile(
    rb"(?:\xf3\x0f\x1e\xfa)?(?:\x55\x48\x89\xe5)?(?:\xb8(.{4})|[\x31\x33]\xc0)\x5d?\xc3", re.DOTALL
)
RETURN_LENGTH = 16  # bytes, at most

STEP = 1 << 20  # bytes inflated at once, on the way to a place
WINDOW = 4 << 20  # bytes kept around the dynamic segment; patchelf puts the names beside it
FARTHEST = 1 << 34  # bytes into a file; farther is garbage, as are larger tables than these:
LARGEST = 1 << 26  # bytes
VERSIONS = 1 << 16  # bytes of the versions needed, at most: no header says how many there are
MOST = 1000  # versions of one library
CHAIN = 1 << 12  # bytes of one chain of hashes, at most


class Elf(NamedTuple):
    """What one library says of itself."""

    machine: str  # as os.uname() says; "" for one that nobody here builds for
    soname: str  # "" without
    needed: tuple[str, ...]  # sonames
    versions: dict[str, frozenset[str]]  # soname: the symbol versions that it must define
    modules: tuple[str, ...]  # the Python modules that importing it gives
    constants: dict[str, int]  # ggml's functions that return a constant, on x86-64


class _Symbol(NamedTuple):
    """A function that a library offers, and the address of its code."""

    address: int
    name: bytes


def read_elf(data: bytes | memoryview) -> Elf | None:
    """Read a library; None when this is no shared library or executable, or not a whole one."""
    return read_elf_file(io.BytesIO(data))


def read_elf_file(file: IO[bytes]) -> Elf | None:
    """Read a library from a seekable file, mostly forward; None as read_elf.

    Going back costs a zip's member a second inflation: the dynamic segment stands near the end,
    and what it points to stands at the beginning, or beside it.
    """
    window = io.BufferedReader(cast(io.RawIOBase, file), WINDOW)
    try:
        return _Reader(window).read_all()
    except (struct.error, ValueError, OverflowError):
        return None
    finally:
        window.detach()  # the file stays its owner's


class _Reader:
    """Find a library's tables through its program headers."""

    def __init__(self, file: io.BufferedReader[io.RawIOBase]) -> None:
        self.file = file
        self.machine, programs = self._header()
        segments = [struct.unpack("<IIQQQQQQ", programs[i : i + 56]) for i in _steps(programs, 56)]
        self.loads: list[tuple[int, int, int]] = [
            (s[3], s[2], s[5]) for s in segments if s[0] == LOAD
        ]
        self.dynamic = [(s[2], s[5]) for s in segments if s[0] == DYNAMIC]

    def _header(self) -> tuple[str, bytes]:
        """Return the machine and the bytes of the program headers."""
        head = self.file.read(64)
        kind, machine, _, _, start = struct.unpack_from("<HHIQQ", head, 16)
        if not head.startswith(MAGIC) or kind not in (EXECUTABLE, SHARED):
            raise ValueError
        size, count = struct.unpack_from("<HH", head, 54)
        if size != 56:
            raise ValueError
        return MACHINES.get(machine, ""), self._whole(start, size * count)

    def read_all(self) -> Elf:
        """Read everything; raises ValueError or struct.error where the file is not sound."""
        if not self.dynamic:
            return Elf(self.machine, "", (), {}, (), {})  # it is linked statically
        entries = self._dynamic()
        tags = dict(entries)
        names = self._whole(self._offset(tags[STRTAB]), tags[STRSZ]) if STRTAB in tags else b""
        functions = self._functions(tags, names)
        return Elf(
            machine=self.machine,
            soname=_name(names, tags[SONAME]) if SONAME in tags else "",
            needed=tuple(_name(names, value) for tag, value in entries if tag == NEEDED),
            versions=self._versions(self._offset(tags[VERNEED]), names) if VERNEED in tags else {},
            modules=tuple(sorted(_modules(functions))),
            constants=dict(self._constants(functions)) if self.machine == "x86_64" else {},
        )

    def _dynamic(self) -> list[tuple[int, int]]:
        offset, size = self.dynamic[0]
        self._some(max(0, offset - WINDOW // 2), 1)  # fills the window with what is near
        return list(struct.iter_unpack("<QQ", self._whole(offset, size - size % 16)))

    def _approach(self, offset: int) -> None:
        """Go forward in steps, because zipfile would take 16 MiB at once, and thrice."""
        for place in range(self.file.tell() + STEP, offset, STEP):
            self.file.seek(place)
        self.file.seek(offset)

    def _some(self, offset: int, size: int) -> bytes:
        """Read as much of it as there is."""
        if size > LARGEST or offset > FARTHEST:
            raise ValueError
        self._approach(offset)
        return self.file.read(size)

    def _whole(self, offset: int, size: int) -> bytes:
        data = self._some(offset, size)
        if len(data) < size:
            raise ValueError
        return data

    def _offset(self, address: int) -> int:
        """Return where in the file the byte at an address in memory stands."""
        for start, offset, size in self.loads:
            if start <= address < start + size:
                return address - start + offset
        raise ValueError

    def _versions(self, offset: int, names: bytes) -> dict[str, frozenset[str]]:
        table, place, found = self._some(offset, VERSIONS), 0, {}
        while True:
            _, count, library, first, following = struct.unpack_from("<HHIII", table, place)
            versions = _needed_versions(table, place + first, count)
            found[_name(names, library)] = frozenset(_name(names, name) for name in versions)
            if following < struct.calcsize("<HHIII"):
                return found
            place += following

    def _functions(self, tags: dict[int, int], names: bytes) -> list[_Symbol]:
        """List the functions with a telling name; most libraries have none, which costs nothing."""
        if SYMTAB not in tags or not (MODULE.search(names) or CONSTANT.search(names)):
            return []
        table = self._whole(self._offset(tags[SYMTAB]), 24 * self._count(tags))
        return sorted(_telling(table, names))

    def _count(self, tags: dict[int, int]) -> int:
        """Return the number of symbols, which only the hash tables know."""
        if HASH in tags:
            return int.from_bytes(self._whole(self._offset(tags[HASH]) + 4, 4), "little")
        if GNU_HASH not in tags:
            return 0
        start = self._offset(tags[GNU_HASH])
        buckets, first, bloom = struct.unpack("<III4x", self._whole(start, 16))
        table = self._whole(start + 16 + 8 * bloom, 4 * buckets)
        last = max(struct.unpack(f"<{buckets}I", table), default=0)
        if last < first:
            return 0  # it offers nothing
        chain = start + 16 + 8 * bloom + 4 * (buckets + last - first)
        return int(last) + 1 + self._chain_length(chain)

    def _chain_length(self, offset: int) -> int:
        """Count what follows in a chain of hashes; the low bit of the last one is set."""
        table = self._some(offset, CHAIN)
        for place in range(0, len(table), 4):
            if table[place] & 1:
                return place // 4
        raise ValueError

    def _constants(self, functions: list[_Symbol]) -> Iterator[tuple[str, int]]:
        for address, name in functions:
            if CONSTANT.fullmatch(name):
                body = RETURN.match(self._some(self._offset(address), RETURN_LENGTH))
                if body:
                    yield name.decode(), int.from_bytes(body[1] or b"", "little")


def _steps(data: bytes, size: int) -> range:
    return range(0, len(data), size)


def _name(names: bytes, start: int) -> str:
    return names[start : names.index(b"\0", start)].decode()


def _needed_versions(table: bytes, place: int, count: int) -> Iterator[int]:
    """Yield where the names of the versions stand that one library must have."""
    for _ in range(min(count, MOST)):
        _, flags, _, name, following = struct.unpack_from("<IHHII", table, place)
        if not flags & WEAK_VERSION:
            yield name
        place += following


def _telling(table: bytes, names: bytes) -> Iterator[_Symbol]:
    for start, info, _, section, address, _ in struct.iter_unpack("<IBBHQQ", table):
        if section and info & 15 == FUNCTION:
            name = names[start : names.index(b"\0", start)]
            if MODULE.fullmatch(name) or CONSTANT.fullmatch(name):
                yield _Symbol(address, name)


def _modules(functions: list[_Symbol]) -> set[str]:
    found = (MODULE.fullmatch(function.name) for function in functions)
    return {match[1].decode() for match in found if match}
