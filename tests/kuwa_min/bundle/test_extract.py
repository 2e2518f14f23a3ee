"""Extraction: complete, never outside the folder, by several processes, and repaired."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path

import pytest

from kuwa_min.bundle import extract, worker_pool
from kuwa_min.bundle.archive import Archive, File
from kuwa_min.errors import StartError
from tests.support.forks import forked_children_end
from tests.support.small_files import files_of, make_file, make_wheel

FILES = {
    "pack/__init__.py": b"A = 1\n",
    "pack/empty.py": b"",
    "pack/deep/er/data.bin": bytes(range(256)) * 5_000,
    "pack/run!": b"#!/bin/sh\n",
    "pack/same.py": b"A = 1\n",
}
BIG = {f"pack/{number}.bin": os.urandom(100_000) * 9 for number in range(8)}


def ignore(done: int, total: int) -> None:
    """Take a report of progress."""


def made(tmp_path: Path, files: dict[str, bytes]) -> Archive:
    """Make a file with one wheel of these files."""
    return make_file(tmp_path / "some.pyz", files_of(make_wheel(tmp_path, "pack", files)))


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a file that several workers unpack, once."""
    return Path(made(tmp_path_factory.mktemp("large"), BIG).path)


@pytest.fixture
def large(large_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Copy it, and let a worker take less than it would."""
    monkeypatch.setattr(worker_pool, "BYTES_PER_WORKER", 1_000_000)
    return Archive(str(shutil.copy(large_file, tmp_path)))


def unpacked(archive: Archive, folder: Path) -> Path:
    """Unpack the first payload to a new folder."""
    folder.mkdir()
    extract.extract_payload(archive, archive.payloads[0], str(folder), ignore)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Read all files but the wheel's metadata."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {path: data for path, data in found.items() if "dist-info" not in path}


def test_the_tree_is_what_the_wheel_holds(tmp_path: Path) -> None:
    """Contents, folders and the executable bit."""
    archive = made(tmp_path, FILES)
    folder = unpacked(archive, tmp_path / "tree")
    assert tree(folder) == {path.rstrip("!"): data for path, data in FILES.items()}
    assert os.access(folder / "pack/run", os.X_OK)
    assert not os.access(folder / "pack/same.py", os.X_OK)


def test_equal_contents_are_one_file_on_disk(tmp_path: Path) -> None:
    """They are in the payload once, too."""
    archive = made(tmp_path, FILES)
    folder = unpacked(archive, tmp_path / "tree")
    index = archive.index(archive.payloads[0])
    assert len(index.files) == len(index.blobs) + 1
    assert (folder / "pack/__init__.py").samefile(folder / "pack/same.py")


def test_without_hard_links_it_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT has none."""

    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder = unpacked(made(tmp_path, FILES), tmp_path / "tree")
    assert tree(folder)["pack/same.py"] == b"A = 1\n"
    assert not (folder / "pack/__init__.py").samefile(folder / "pack/same.py")


def test_several_workers_write_the_same(
    large: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And report their progress."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    seen: list[tuple[int, int]] = []
    (tmp_path / "tree").mkdir()
    payload = large.payloads[0]
    extract.extract_payload(large, payload, str(tmp_path / "tree"), lambda *told: seen.append(told))
    assert tree(tmp_path / "tree") == BIG
    assert seen[-1] == (payload["bytes"], payload["bytes"])
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("processors", [1, 3])
def test_damage_is_found_by_every_way_of_writing(
    large: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    """The message names the file to copy again; no worker is left."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    data = bytearray(Path(large.path).read_bytes())
    data[1000] ^= 1
    Path(large.path).write_bytes(data)
    with forked_children_end(), pytest.raises(StartError, match=r"some\.pyz is damaged"):
        unpacked(large, tmp_path / "tree")


@pytest.mark.parametrize("processors", [1, 3])
def test_an_error_of_the_disk_reaches_the_caller(
    large: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    """From a worker, too: here a folder is where a file should be."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    (tmp_path / "tree/pack/3.bin").mkdir(parents=True)
    with pytest.raises(FileExistsError):
        extract.extract_payload(large, large.payloads[0], str(tmp_path / "tree"), ignore)


@pytest.mark.parametrize("path", ["../evil", "/evil", "a/../../evil", "c:/evil", "a\\..\\evil"])
def test_a_path_outside_is_refused(tmp_path: Path, path: str) -> None:
    """A file that was tampered with writes nowhere else."""
    archive = made(tmp_path, FILES)
    index = archive.index(archive.payloads[0])
    evil = index._replace(files=[File(path, 0, 0)])
    packed = zlib.compress(json.dumps(evil._asdict()).encode())
    file, payload = Path(archive.path), archive.payloads[0]
    start = archive.zip_start - payload["index_position"]
    data = file.read_bytes()
    assert len(packed) <= payload["index_size"]
    room = packed.ljust(payload["index_size"], b"\0")
    file.write_bytes(data[:start] + room + data[start + payload["index_size"] :])
    (tmp_path / "tree").mkdir()
    shorter = {**payload, "index_size": len(packed)}
    with pytest.raises(StartError, match="names a path outside"):
        extract.extract_payload(archive, shorter, str(tmp_path / "tree"), ignore)  # type: ignore[arg-type]
    assert list((tmp_path / "tree").iterdir()) == []


def test_missing_and_short_files_are_found_and_put_back(tmp_path: Path) -> None:
    """Each in one step; whole files are not touched."""
    archive = made(tmp_path, FILES)
    folder = unpacked(archive, tmp_path / "tree")
    index = archive.index(archive.payloads[0])
    assert extract.find_damaged(str(folder), index) == []
    (folder / "pack/empty.py").unlink()
    (folder / "pack/deep/er/data.bin").write_bytes(b"short")
    bad = extract.find_damaged(str(folder), index)
    assert sorted(file.path for file in bad) == ["pack/deep/er/data.bin", "pack/empty.py"]
    extract.rewrite(archive, archive.payloads[0], str(folder), bad)
    assert tree(folder) == {path.rstrip("!"): data for path, data in FILES.items()}


def test_a_changed_byte_is_found_by_reading(tmp_path: Path) -> None:
    """Its size does not show it."""
    archive = made(tmp_path, FILES)
    folder = unpacked(archive, tmp_path / "tree")
    index = archive.index(archive.payloads[0])
    (folder / "pack/run").write_bytes(b"#!/bin/no\n")
    assert extract.find_damaged(str(folder), index) == []
    bad = extract.find_corrupted(str(folder), index, ignore)
    assert [file.path for file in bad] == ["pack/run"]


def test_a_whole_folder_that_is_gone_comes_back(tmp_path: Path) -> None:
    """As after a cleaning of temporary files."""
    archive = made(tmp_path, FILES)
    folder = unpacked(archive, tmp_path / "tree")
    (folder / "pack/deep/er/data.bin").unlink()
    (folder / "pack/deep/er").rmdir()
    bad = extract.find_damaged(str(folder), archive.index(archive.payloads[0]))
    extract.rewrite(archive, archive.payloads[0], str(folder), bad)
    assert tree(folder)["pack/deep/er/data.bin"] == FILES["pack/deep/er/data.bin"]
