"""ELF files: what real ones say, what gcc makes of constants, and that garbage never raises."""

from __future__ import annotations

import importlib.util
import io
import os
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from kuwa_min.packing.elf.reader import Elf, read_elf, read_elf_file

EXTENSIONS = ("_ctypes", "_json", "_bz2", "_ssl", "_socket")  # one of them is a file of its own
SECTIONS = 40  # where the header says where section headers are
DYNAMIC, STACK = 2, 0x6474E551  # segments; the second is not read
STRTAB, STRSZ = 5, 10  # entries of the dynamic segment

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc here to make libraries with")
on_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="constants are read of x86-64")


def extension() -> tuple[str, bytes]:
    """Return the name and the bytes of an extension module of this Python."""
    for name in EXTENSIONS:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and spec.origin.endswith(".so"):
            return name, Path(spec.origin).read_bytes()
    pytest.skip("this Python has its extension modules built in")


def compiled(folder: Path, source: str, *options: str, name: str = "made.so") -> Path:
    """Compile a library from C."""
    code = folder / f"{name}.c"
    code.write_text(source)
    made = folder / name
    subprocess.run(["gcc", "-shared", "-fPIC", code, "-o", made, *options], check=True, cwd=folder)
    return made


def read(path: Path) -> Elf:
    """Return what a sound library says."""
    found = read_elf(path.read_bytes())
    assert found is not None
    return found


def test_an_extension_module_says_what_it_is() -> None:
    """Of this Python: its module, its machine, the C library that it needs."""
    name, data = extension()
    found = read_elf(data)
    assert found is not None
    assert found.modules == (name,)
    assert found.machine == os.uname().machine
    assert "libc.so.6" in found.needed
    assert any(version.startswith("GLIBC_2.") for version in found.versions["libc.so.6"])
    assert found.constants == {}


def test_bytes_and_views_and_files_read_alike() -> None:
    """A file stays open, for its owner."""
    _, data = extension()
    file = io.BytesIO(data)
    assert read_elf_file(file) == read_elf(memoryview(data)) == read_elf(data) is not None
    assert not file.closed


def test_section_headers_are_not_needed() -> None:
    """They may be stripped, or stay wrong behind patchelf."""
    _, data = extension()
    start = struct.unpack_from("<Q", data, SECTIONS)[0]
    blind = data[:SECTIONS] + bytes(8) + data[SECTIONS + 8 : start] + b"\xff" * (len(data) - start)
    assert read_elf(blind) == read_elf(data) is not None


def test_tables_may_move_as_patchelf_moves_them() -> None:
    """The names go to the end of the file, into a segment of their own, at another address."""
    _, data = extension()
    count = struct.unpack_from("<H", data, 56)[0]
    starts = [64 + 56 * number for number in range(count)]
    kinds = {struct.unpack_from("<I", data, start)[0]: start for start in starts}
    offset, _, _, size = struct.unpack_from("<QQQQ", data, kinds[DYNAMIC] + 8)
    entries = {struct.unpack_from("<Q", data, at)[0]: at for at in range(offset, offset + size, 16)}
    place, length = (struct.unpack_from("<Q", data, entries[tag] + 8)[0] for tag in (STRTAB, STRSZ))
    moved = bytearray(data) + data[place : place + length]
    moved[place : place + length] = bytes(length)
    struct.pack_into("<Q", moved, entries[STRTAB] + 8, 1 << 28)
    load = (1, 4, len(data), 1 << 28, 1 << 28, length, length, 4096)
    struct.pack_into("<IIQQQQQQ", moved, kinds[STACK], *load)
    assert read_elf(bytes(moved)) == read_elf(data) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"#!/bin/sh\necho this is a linker script\n",
        b"\x7fELF\x02\x01" + bytes(58),
        b"\x7fELF\x02\x01" + b"\xff" * 5000,
    ],
)
def test_what_is_no_elf_is_none(data: bytes) -> None:
    """Some .so files are text."""
    assert read_elf(data) is None


@pytest.mark.parametrize(
    ("place", "value"),
    [(4, 1), (5, 2), (16, 1), (16, 4), (54, 32)],
    ids=["32 bits", "big endian", "an object", "a core", "strange program headers"],
)
def test_other_kinds_of_elf_are_none(place: int, value: int) -> None:
    """No such file is loaded here."""
    _, data = extension()
    other = bytearray(data)
    other[place] = value
    assert read_elf(bytes(other)) is None


def test_a_truncated_library_is_none_and_never_raises() -> None:
    """Wherever it ends; from the end of the tables on, it may be whole enough."""
    _, data = extension()
    assert read_elf(data[:1000]) is None
    found = {read_elf(data[:size]) is None for size in range(0, len(data), 997)}
    assert True in found


def test_damage_never_raises() -> None:
    """Flipped bytes in the headers and tables give something or None."""
    _, data = extension()
    rng = random.Random(1)
    found = read_elf(data)
    outcomes = set()
    for _ in range(400):
        bad = bytearray(data)
        for _ in range(8):
            bad[rng.randrange(2048)] = rng.randrange(256)
        bad[:64] = data[:64]
        outcomes.add("none" if read_elf(bytes(bad)) is None else "some")
    assert outcomes == {"none", "some"}
    assert read_elf(data) == found


@needs_gcc
@pytest.mark.slow
@on_x86
@pytest.mark.parametrize("hashes", ["gnu", "sysv", "both"])
@pytest.mark.parametrize(
    "options",
    ["-O0", "-O1", "-O2", "-O3", "-Os", "-O3 -fcf-protection=full -s", "-O2 -mavx2"],
)
def test_constants_are_read_of_the_code(tmp_path: Path, options: str, hashes: str) -> None:
    """However it is compiled: what returns a constant is told, and nothing else."""
    many = {f"ggml_cpu_has_n{number}": number % 2 for number in range(20)}
    source = "".join(f"int {name}(void) {{ return {value}; }}" for name, value in many.items())
    source += """
    int ggml_cpu_has_avx(void) { return 1; }
    int ggml_cpu_has_fma(void) { return 0; }
    int ggml_cpu_has_avx2(void) {
    #ifdef __AVX2__
        return 1;
    #else
        return 0;
    #endif
    }
    int ggml_cpu_get_rvv_vlen(void) { return 7; }
    extern int ggml_cpu_has_elsewhere(void);
    int asked(void);
    int ggml_cpu_has_asked(void) { return asked(); }
    static int ggml_cpu_has_hidden(void) { return 1; }
    int (*used)(void) = ggml_cpu_has_hidden, (*other)(void) = ggml_cpu_has_elsewhere;
    int PyInit_one;
    int PyInit_two(void) { return 0; }
    """
    made = compiled(tmp_path, source, *options.split(), f"-Wl,--hash-style={hashes}")
    found = read(made)
    assert found.constants == {
        **many,
        "ggml_cpu_has_avx": 1,
        "ggml_cpu_has_fma": 0,
        "ggml_cpu_has_avx2": int("-mavx2" in options),
    }
    assert found.modules == ("two",)


@needs_gcc
@pytest.mark.slow
def test_names_and_versions_are_exact(tmp_path: Path) -> None:
    """Of a library with versions and of one that needs them; weak ones are no need."""
    (tmp_path / "versions").write_text(
        "V_1.0 { global: one; PyInit_far; };\nV_1.2 { global: two; };\n"
    )
    offered = (
        "int one(void) { return 1; } int two(void) { return 2; } int PyInit_far() { return 3; }"
    )
    options = ("-Wl,-soname,libnew.so.3", "-Wl,--version-script=versions", "-nostdlib")
    new = compiled(tmp_path, offered, *options, name="libnew.so")
    assert read(new) == Elf(os.uname().machine, "libnew.so.3", (), {}, ("far",), {})
    user = "int one(void), two(void), PyInit_far(void);"
    user += "int use(void) { return one() + two() + PyInit_far(); }"
    options = ("-nostdlib", "-L.", "-lnew", "-Wl,-soname,libuser.so")
    made = compiled(tmp_path, user, *options, name="libuser.so")
    found = read(made)
    assert (found.soname, found.needed, found.modules) == ("libuser.so", ("libnew.so.3",), ())
    assert found.versions == {"libnew.so.3": frozenset({"V_1.0", "V_1.2"})}
    strong, weak = (struct.pack("<IH", elf_hash(b"V_1.2"), flag) for flag in (0, 2))
    weakened = read_elf(made.read_bytes().replace(strong, weak))  # as newer linkers say themselves
    assert weakened == found._replace(versions={"libnew.so.3": frozenset({"V_1.0"})})


def elf_hash(name: bytes) -> int:
    """Return the hash by which the loader compares versions."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        value = (value ^ (value & 0xF0000000) >> 24) & 0x0FFFFFFF
    return value


@needs_gcc
@pytest.mark.slow
def test_a_static_program_needs_nothing_and_an_object_is_none(tmp_path: Path) -> None:
    """One has no dynamic segment, the other no segments at all."""
    code = tmp_path / "code.c"
    code.write_text("void _start(void) { for (;;); }")
    for options in (("-static", "-nostdlib", "-o", "program"), ("-c", "-o", "object")):
        subprocess.run(["gcc", *options, code], check=True, cwd=tmp_path)
    assert read(tmp_path / "program") == Elf(os.uname().machine, "", (), {}, (), {})
    assert read_elf((tmp_path / "object").read_bytes()) is None


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("readelf"), reason="no readelf here to judge by")
def test_readelf_says_the_same_of_the_systems_libraries() -> None:
    """Twenty libraries of this machine: soname, needed and versions."""
    folder = Path("/usr/lib", f"{os.uname().machine}-linux-gnu")
    libraries = [path for path in sorted(folder.glob("lib*.so.*")) if not path.is_symlink()][:20]
    if not libraries:
        pytest.skip(f"no libraries in {folder}")
    for path in libraries:
        found = read_elf(path.read_bytes())
        assert found is not None
        assert (found.soname, found.needed, found.versions) == by_readelf(path)


def by_readelf(path: Path) -> tuple[str, tuple[str, ...], dict[str, frozenset[str]]]:
    """Return soname, needed and versions as binutils see them."""
    text = subprocess.run(["readelf", "-dVW", path], capture_output=True, text=True, check=True)
    sonames = re.findall(r"\(SONAME\).*\[(.*)\]", text.stdout)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", text.stdout)
    _, _, wanted = text.stdout.partition("Version needs section")
    versions = {}
    for block in wanted.split("File: ")[1:]:
        names = re.findall(r"Name: (\S+)  Flags: (?!.*WEAK)", block)
        versions[block.split()[0]] = frozenset(names)
    return "".join(sonames), tuple(needed), versions
