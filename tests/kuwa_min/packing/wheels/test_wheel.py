"""Wheels: where each file lands and where its stream lies; what is damaged or odd is refused."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.wheel import PayloadFile, read_wheel
from tests.support.small_files import files_of, make_wheel, record_hash

DIGEST = "f" * 64
INFO = "pack-1.0.dist-info"
FILES = {"pack/__init__.py": b"A = 1\n" * 100, "pack/empty.py": b"", "pack/run!": b"#!/bin/sh\n"}
NAME = "pack-1.0-py3-none-any.whl"


def at(members: list[PayloadFile], path: str) -> PayloadFile:
    """Return the content that lands at a path."""
    (found,) = [member for member in members if member.path == path]
    return found


def inflated(member: PayloadFile) -> bytes:
    """Read a content's stream where it is said to lie."""
    data = member.source.read_bytes()[member.offset : member.offset + member.stored]
    return zlib.decompress(data, -zlib.MAX_WBITS) if member.method else data


def raw_wheel(folder: Path, members: dict[str, bytes], name: str = NAME) -> Path:
    """Write a zip of exactly these members."""
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data)
    return folder / name


def dist_info(record: bytes = b"") -> dict[str, bytes]:
    """Return the least that a wheel says of itself."""
    return {f"{INFO}/METADATA": b"Name: pack\nVersion: 1.0\n", f"{INFO}/RECORD": record}


# -- what lies where


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_stream_lies_where_it_is_said_to(tmp_path: Path, method: int) -> None:
    """With its size, its sum, and the hash that RECORD gives it."""
    members = files_of(make_wheel(tmp_path, "pack", FILES, method=method))
    for path, data in FILES.items():
        member = at(members, path.rstrip("!"))
        assert (member.method, member.size, member.crc) == (method, len(data), zlib.crc32(data))
        assert member.sha256 == hashlib.sha256(data).hexdigest()
        assert inflated(member) == data


def test_the_order_is_the_files(tmp_path: Path) -> None:
    """Reading goes forward only."""
    members = files_of(make_wheel(tmp_path, "pack", FILES))
    offsets = [member.offset for member in members]
    assert offsets == sorted(offsets)


def test_only_the_owners_right_to_run_counts(tmp_path: Path) -> None:
    """The rest of the mode is the umask's business."""
    modes = {"all": 0o755, "owner": 0o744, "others": 0o655, "none": 0o644}
    path = raw_wheel(tmp_path, dist_info())
    with zipfile.ZipFile(path, "a") as archive:
        for name, mode in modes.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, b"")
    assert [one.path for one in files_of(path) if one.executable] == ["all", "owner"]


PLACES = (
    ("pack/a.py", "pack/a.py"),
    ("pack-1.0.data/purelib/pack/a.py", "pack/a.py"),
    ("pack-1.0.data/platlib/pack/a.so", "pack/a.so"),
    ("pack-1.0.data/data/share/a.txt", "share/a.txt"),
    ("pack-1.0.data/scripts/a", None),
    ("pack-1.0.data/headers/a.h", None),
    ("data/a.txt", "data/a.txt"),
    ("pack/.data/a.txt", "pack/.data/a.txt"),
)


@pytest.mark.parametrize(("member", "place"), PLACES)
def test_data_folders_land_beside_the_packages(
    tmp_path: Path, member: str, place: str | None
) -> None:
    """Scripts and headers are nothing that a program imports."""
    members = files_of(make_wheel(tmp_path, "pack", {member: b"text"}))
    paths = [member.path for member in members if ".dist-info" not in member.path]
    assert paths == ([place] if place else [])
    if place:
        assert at(members, place).sha256 == hashlib.sha256(b"text").hexdigest()


def test_folders_of_the_zip_are_no_files(tmp_path: Path) -> None:
    """Some builders write them."""
    path = raw_wheel(tmp_path, {"pack/": b"", "pack/a.py": b"1", **dist_info()})
    assert files_of(path)[0].path == "pack/a.py"


def test_a_local_header_may_be_longer_than_the_central_one(tmp_path: Path) -> None:
    """The stream begins behind the extra field that stands there."""
    entry = zipfile.ZipInfo("pack/a.py")
    entry.extra = b"\xfe\xca\x04\x00abcd"
    with zipfile.ZipFile(tmp_path / NAME, "w") as archive:
        archive.writestr(entry, b"text")
        for member, data in dist_info().items():
            archive.writestr(member, data)
    assert inflated(at(files_of(tmp_path / NAME), "pack/a.py")) == b"text"


def test_what_record_does_not_hash_has_no_hash(tmp_path: Path) -> None:
    """RECORD itself, and what another algorithm hashes."""
    record = f"pack/a.py,md5=abc,1\npack/b.py,{record_hash(b'2')},1\npack/c.py,,\nshort\n".encode()
    members = {"pack/a.py": b"1", "pack/b.py": b"2", "pack/c.py": b"3", **dist_info(record)}
    members = files_of(raw_wheel(tmp_path, members))
    hashed = {member.path: member.sha256 for member in members if member.sha256}
    assert hashed == {"pack/b.py": hashlib.sha256(b"2").hexdigest()}


# -- what it is


def test_the_package_is_what_its_metadata_says(tmp_path: Path) -> None:
    """With the wheel's name and the hash that the lock knows."""
    path = make_wheel(tmp_path, "pack", FILES)
    assert read_wheel(path, DIGEST).package == {
        "name": "pack",
        "version": "1.0",
        "wheel": NAME,
        "sha256": DIGEST,
        "license": "MIT",
        "spdx": True,
    }


def test_metadata_that_say_nothing_leave_it_to_the_name(tmp_path: Path) -> None:
    """There are such wheels."""
    path = raw_wheel(tmp_path, {f"{INFO}/METADATA": b"\xff\n", f"{INFO}/RECORD": b""})
    package = read_wheel(path, DIGEST).package
    assert (package["name"], package["version"], package["license"]) == ("pack", "1.0", "")


# -- what is refused


def refusal(path: Path) -> str:
    """Return the line with which a wheel is refused."""
    with pytest.raises(UsageError) as caught:
        read_wheel(path, DIGEST)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


UNSAFE = ("../evil.py", "/etc/evil", "pack/../../evil.py", "pack-1.0.data/data/../evil", "C:/evil")


@pytest.mark.parametrize("name", UNSAFE)
def test_a_member_outside_of_the_tree_is_refused(tmp_path: Path, name: str) -> None:
    """Such a wheel is malicious."""
    path = raw_wheel(tmp_path, {name: b"1", **dist_info()})
    assert "has a member outside of its tree" in refusal(path)


def test_a_backslash_is_refused(tmp_path: Path) -> None:
    """On Windows it would be a folder."""
    path = raw_wheel(tmp_path, {"pack/xx..xxevil.py": b"1", **dist_info()})
    path.write_bytes(path.read_bytes().replace(b"pack/xx..xxevil.py", b"pack\\xx..xx\\vil.py"))
    assert "has a member outside of its tree" in refusal(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_is_compressed_otherwise_is_refused(tmp_path: Path, method: int) -> None:
    """What unpacks it knows deflate alone."""
    with zipfile.ZipFile(tmp_path / NAME, "w") as archive:
        archive.writestr("pack/a.py", b"1" * 100, method)
        for member, data in dist_info().items():
            archive.writestr(member, data)
    assert "pack/a.py is neither stored nor deflated" in refusal(tmp_path / NAME)


@pytest.mark.parametrize("number", [0, 2], ids=["a module", "RECORD"])
def test_an_encrypted_member_is_refused(tmp_path: Path, number: int) -> None:
    """There is no password to open it."""
    path = raw_wheel(tmp_path, {"pack/a.py": b"1", **dist_info()})
    data = bytearray(path.read_bytes())
    place = -1
    for _ in range(number + 1):
        place = data.index(b"PK\x01\x02", place + 1)
    data[place + 8] |= 1  # the flags of the central directory
    path.write_bytes(data)
    assert refusal(path)


def test_a_wheel_without_dist_info_or_with_two_is_refused(tmp_path: Path) -> None:
    """It could be anything."""
    assert "has 0 .dist-info folders" in refusal(raw_wheel(tmp_path, {"pack/a.py": b"1"}))
    two = {**dist_info(), "other-1.0.dist-info/RECORD": b""}
    assert "has 2 .dist-info folders" in refusal(raw_wheel(tmp_path, two))


@pytest.mark.parametrize("missing", ["METADATA", "RECORD"])
def test_a_wheel_without_one_of_these_files_is_refused(tmp_path: Path, missing: str) -> None:
    """The line names it."""
    left = {name: data for name, data in dist_info().items() if missing not in name}
    assert missing in refusal(raw_wheel(tmp_path, {"pack/a.py": b"1", **left}))


@pytest.mark.parametrize("record", [b"pack/a.py,sha256=a,1\n", b"\xff\xfe,,\n"])
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, record: bytes) -> None:
    """In one line as everything else."""
    refusal(raw_wheel(tmp_path, {"pack/a.py": b"1", **dist_info(record)}))


def test_a_name_that_is_no_wheels_is_refused(tmp_path: Path) -> None:
    """Pip passes it by."""
    refusal(raw_wheel(tmp_path, dist_info(), "odd.whl"))


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    """Such as the page of a proxy that asks for a password."""
    (tmp_path / NAME).write_text("<html>", encoding="ascii")
    assert "is not a whole wheel" in refusal(tmp_path / NAME)


@pytest.mark.slow
def test_damage_is_never_a_traceback(tmp_path: Path) -> None:
    """Whatever byte is wrong, wherever the download ended."""
    path = make_wheel(tmp_path, "pack", FILES)
    whole = path.read_bytes()
    flipped = (whole[:n] + bytes([whole[n] ^ 0xFF]) + whole[n + 1 :] for n in range(len(whole)))
    cut = (whole[:n] for n in range(0, len(whole), 7))
    refused = 0
    for data in (*flipped, *cut):
        path.write_bytes(data)
        try:
            read_wheel(path, DIGEST)
        except UsageError:
            refused += 1
    assert refused > len(whole) // 4
