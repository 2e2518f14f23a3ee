"""Payloads: every content once, equal bytes for equal files, an id of the contents."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from pathlib import Path

import pytest

from kuwa_min.bundle.archive import Blob, File, Index
from kuwa_min.errors import UsageError
from kuwa_min.packing.payload import ID_LENGTH, Output, PayloadInfo, write_payload
from kuwa_min.packing.pyz import stored_file
from kuwa_min.packing.wheels.wheel import PayloadFile
from tests.support.small_files import files_of, make_wheel

FILES = {
    "pack/__init__.py": b"A = 1\n",
    "pack/data.bin": bytes(range(256)) * 100,
    "pack/run!": b"#!/bin/sh\n",
}


def written(
    folder: Path, members: list[PayloadFile], before: bytes = b""
) -> tuple[PayloadInfo, bytes]:
    """Write a payload behind these bytes; return what is known of it and the whole file."""
    path = folder / "payload"
    with path.open("wb") as file:
        out = Output(file)
        if before:
            out.write(before)
        found = write_payload(members, out)
    return found, path.read_bytes()


def index_of(found: PayloadInfo, data: bytes) -> Index:
    """Read the index that a payload ends with."""
    packed = data[found.index_start : found.index_start + found.index_size]
    raw = json.loads(zlib.decompress(packed))
    return Index([File(*one) for one in raw["files"]], [Blob(*one) for one in raw["blobs"]])


def tree_of(found: PayloadInfo, data: bytes) -> dict[str, bytes]:
    """Inflate what the index names."""
    index, tree = index_of(found, data), {}
    for file in index.files:
        blob = index.blobs[file.blob]
        stream = data[found.start + blob.offset :][: blob.stored]
        tree[file.path] = zlib.decompress(stream, -zlib.MAX_WBITS) if blob.method else stream
    return tree


def wheel(folder: Path, files: dict[str, bytes], **how: object) -> list[PayloadFile]:
    """Return a wheel's members without its dist-info."""
    folder.mkdir(exist_ok=True)
    members = files_of(make_wheel(folder, "pack", files, **how))  # type: ignore[arg-type]
    return [member for member in members if ".dist-info" not in member.path]


# -- what is written


@pytest.mark.parametrize("before", [b"", b"#!/usr/bin/env python3\n"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_is_written_is_what_the_wheels_hold(
    tmp_path: Path, method: int, before: bytes
) -> None:
    """The streams lie one behind the other, whatever stands before them."""
    found, data = written(tmp_path, wheel(tmp_path, FILES, method=method), before)
    assert tree_of(found, data) == {path.rstrip("!"): text for path, text in FILES.items()}
    index = index_of(found, data)
    assert sum(blob.stored for blob in index.blobs) == found.index_start - found.start
    assert (found.start, found.index_start + found.index_size) == (len(before), len(data))
    assert (found.files, found.folders) == (3, 1)
    assert found.bytes == sum(map(len, FILES.values()))
    assert [file.path for file in index.files if file.executable] == ["pack/run"]


FOLDERS = (((), 0), (("a.py",), 0), (("a/b.py", "a/c.py"), 1), (("a/b/c/d.py", "a/e/f.py"), 4))


@pytest.mark.parametrize(("paths", "number"), FOLDERS)
def test_folders_are_counted_with_those_above_them(
    tmp_path: Path, paths: tuple[str, ...], number: int
) -> None:
    """Each takes an inode of the disk."""
    members = wheel(tmp_path, dict.fromkeys(paths, b"1"))
    assert written(tmp_path, members)[0].folders == number


def test_streams_are_copied_as_they_lie(tmp_path: Path) -> None:
    """Nothing is compressed anew: another zlib would give other bytes, and it takes minutes."""
    members = wheel(tmp_path, FILES)
    _, data = written(tmp_path, members)
    for member in members:
        stream = member.source.read_bytes()[member.offset :][: member.stored]
        assert stream in data


def test_equal_contents_lie_there_once(tmp_path: Path) -> None:
    """Also those of two wheels, and those that may be run in one place only."""
    same = bytes(range(256)) * 50
    one = wheel(tmp_path / "1", {"a/x.so": same, "a/y.so": same})
    two = wheel(tmp_path / "2", {"b/x.so!": same})
    found, data = written(tmp_path, [*one, *two])
    index = index_of(found, data)
    assert (len(index.files), len(index.blobs)) == (3, 1)
    assert found.bytes == 2 * len(same)  # on disk a file that may be run is another one
    assert tree_of(found, data)["b/x.so"] == same


def test_two_wheels_may_want_one_path(tmp_path: Path) -> None:
    """The first has it, as pip leaves the last: neither is better, but it must be the same one."""
    one = wheel(tmp_path / "1", {"shared/__init__.py": b"1"})
    two = wheel(tmp_path / "2", {"shared/__init__.py": b"2", "b.py": b"b"})
    found, data = written(tmp_path, [*one, *two])
    assert tree_of(found, data) == {"shared/__init__.py": b"1", "b.py": b"b"}


def test_a_file_without_a_hash_is_identified_by_its_path(tmp_path: Path) -> None:
    """Two different files of equal size and sum are never taken for one."""
    members = [one._replace(sha256="") for one in wheel(tmp_path, {"a.py": b"1", "b.py": b"1"})]
    found, data = written(tmp_path, members)
    assert len(index_of(found, data).blobs) == 2


def test_stored_files_are_summed_and_hashed_while_they_are_copied(tmp_path: Path) -> None:
    """A model is read once."""
    text = bytes(range(256)) * 9000  # more than one piece
    (tmp_path / "model.bin").write_bytes(text)
    found, data = written(tmp_path, [stored_file(tmp_path / "model.bin", "model.bin")])
    (blob,) = index_of(found, data).blobs
    digest = hashlib.sha256(text).hexdigest()
    assert blob == Blob(0, len(text), len(text), 0, zlib.crc32(text), digest)


def test_a_payload_of_nothing_is_an_empty_index(tmp_path: Path) -> None:
    """Or one empty file."""
    found, data = written(tmp_path, [])
    assert (found.files, found.bytes, tree_of(found, data)) == (0, 0, {})
    found, data = written(tmp_path, wheel(tmp_path, {"empty.py": b""}))
    assert tree_of(found, data) == {"empty.py": b""}


def test_a_source_that_became_shorter_is_one_line(tmp_path: Path) -> None:
    """Another process wrote to it while it was read."""
    members = wheel(tmp_path, FILES, method=zipfile.ZIP_STORED)
    source = members[0].source
    source.write_bytes(source.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"\.whl is shorter than it says: fetch it again"):
        written(tmp_path, members)


# -- the same, and not the same


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    """Wherever the wheel lies and whenever it was made."""
    one, two = wheel(tmp_path / "one", FILES), wheel(tmp_path / "two", FILES)
    assert written(tmp_path, one) == written(tmp_path, two)


def test_the_id_says_what_is_there_not_how_it_came(tmp_path: Path) -> None:
    """Order, compression and place do not matter: nothing is unpacked anew for them."""
    plain = written(tmp_path, wheel(tmp_path, FILES))[0].id
    turned = dict(reversed(FILES.items()))
    assert written(tmp_path, wheel(tmp_path, turned))[0].id == plain
    assert written(tmp_path, wheel(tmp_path, FILES, method=zipfile.ZIP_STORED))[0].id == plain
    assert written(tmp_path, wheel(tmp_path, FILES), b"#!\n")[0].id == plain
    halves = [wheel(tmp_path / path[5], {path: FILES[path]})[0] for path in FILES]
    assert written(tmp_path, halves)[0].id == plain
    assert len(plain) == ID_LENGTH == 20


OTHERS = (
    {**FILES, "pack/__init__.py": b"A = 2\n"},  # another content of the same size
    {**FILES, "pack/more.py": b""},
    {path: FILES[path] for path in list(FILES)[1:]},
    {path.replace("data", "date"): data for path, data in FILES.items()},
    {path.rstrip("!"): data for path, data in FILES.items()},  # another mode
    {"pack/__init__.py!": FILES["pack/__init__.py"], **dict(list(FILES.items())[1:])},
    {**FILES, "pack/__init__.py": FILES["pack/run!"], "pack/run!": FILES["pack/__init__.py"]},
)


@pytest.mark.parametrize("files", OTHERS, ids=range(len(OTHERS)))
def test_another_tree_has_another_id(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Whatever differs: a content, a path, a mode, which path has which content."""
    ids = [written(tmp_path, wheel(tmp_path, tree))[0].id for tree in (FILES, files)]
    assert ids[0] != ids[1]


def test_what_has_no_hash_counts_by_its_sum(tmp_path: Path) -> None:
    """RECORD does not hash itself, and must count all the same."""
    trees = ({"a.py": b"1"}, {"a.py": b"2"})
    members = ([one._replace(sha256="") for one in wheel(tmp_path, tree)] for tree in trees)
    one, two = (written(tmp_path, found)[0].id for found in members)
    assert one != two


# -- the hash


def test_the_hash_is_that_of_all_that_was_written(tmp_path: Path) -> None:
    """Asked at any time, also between two writings."""
    with (tmp_path / "file").open("wb") as file:
        out = Output(file)
        assert out.sha256() == hashlib.sha256().hexdigest()
        for number in range(100):
            out.write(bytes([number]) * 1000)
            if number % 30 == 0:
                digest = out.sha256()
                file.flush()
                data = (tmp_path / "file").read_bytes()
                assert (digest, out.position) == (hashlib.sha256(data).hexdigest(), len(data))
                assert len(data) == 1000 * (number + 1)


def test_a_payload_knows_the_hash_up_to_its_end(tmp_path: Path) -> None:
    """With the line that stands before it: so the file's reader checks it on its way."""
    found, data = written(tmp_path, wheel(tmp_path, FILES), b"#!\n")
    assert found.sha256 == hashlib.sha256(data).hexdigest()
