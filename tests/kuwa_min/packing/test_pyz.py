"""The whole file: readable by every zip tool, written in one step, left alone by a failure."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kuwa_min.bundle.archive import Archive
from kuwa_min.bundle.manifest import Payload
from kuwa_min.errors import UsageError
from kuwa_min.packing.core_zip import SHEBANG
from kuwa_min.packing.pyz import PayloadSpec, stored_file, write_document, write_file
from tests.support.small_files import files_of, make_file, make_wheel

FILES = {"pack/__init__.py": b"A = 1\n", "pack/data.bin": bytes(range(256)) * 100}


def entries(_: list[Payload]) -> dict[str, bytes]:
    """Return a core that is nothing."""
    return {"__main__.py": b"print('here')\n"}


def written(path: Path, files: dict[str, bytes]) -> Path:
    """Write a file with one wheel of these files."""
    wheel = make_wheel(path.parent, "pack", files)
    write_file(path, [PayloadSpec("libraries", files_of(wheel))], entries)
    return path


def test_a_file_with_a_payload_is_a_program_and_a_zip(tmp_path: Path) -> None:
    """Python runs it, zipfile and its test read it, whatever stands in front."""
    path = written(tmp_path / "some.pyz", FILES)
    assert path.read_bytes().startswith(SHEBANG)
    with zipfile.ZipFile(path) as archive:
        assert (archive.namelist(), archive.testzip()) == (["__main__.py"], None)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    assert done.stdout == "here\n"
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_file_without_payload_has_no_extra_bytes(tmp_path: Path) -> None:
    """Its zip counts from the first line, so that no tool warns."""
    path = tmp_path / "some.pyz"
    write_file(path, [], entries)
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].header_offset == len(SHEBANG)
        assert archive.start_dir < path.stat().st_size
    data = path.read_bytes()
    local = data.index(b"PK\x03\x04")
    central = data.index(b"PK\x01\x02")
    assert local == len(SHEBANG) == int.from_bytes(data[central + 42 : central + 46], "little")


def test_the_sum_beside_it_is_what_sha256sum_checks(tmp_path: Path) -> None:
    """The same that is returned."""
    path = tmp_path / "some.pyz"
    digest = write_file(path, [], entries)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    beside = path.with_name("some.pyz.sha256").read_text(encoding="ascii")
    assert beside == f"{digest}  some.pyz\n"


def test_a_document_is_a_new_file_each_time(tmp_path: Path) -> None:
    """A kit that has the old one, as a hard link, stays as it was signed."""
    path, kit = tmp_path / "some.pyz.sha256", tmp_path / "kit.sha256"
    for text in ("old", "授權\n"):
        write_document(path, text)
        if text == "old":
            kit.hardlink_to(path)
    assert (kit.read_bytes(), path.read_bytes()) == (b"old", "授權\n".encode())


def test_payloads_are_known_by_where_they_lie_before_the_zip(tmp_path: Path) -> None:
    """So the first line may change; libraries and a model are two of them."""
    (tmp_path / "model.gguf").write_bytes(b"weights" * 1000)
    wheel = make_wheel(tmp_path, "pack", FILES)
    seen: list[Payload] = []

    def core(payloads: list[Payload]) -> dict[str, bytes]:
        seen.extend(payloads)
        return entries(payloads)

    specs = [
        PayloadSpec("libraries", files_of(wheel)),
        PayloadSpec("model", [stored_file(tmp_path / "model.gguf", "model.gguf")]),
    ]
    write_file(tmp_path / "some.pyz", specs, core)
    data = (tmp_path / "some.pyz").read_bytes()
    zip_start = data.index(b"PK\x03\x04", len(data) - 400)
    assert [one["kind"] for one in seen] == ["libraries", "model"]
    assert zip_start - seen[0]["position"] == len(SHEBANG)
    model = zip_start - seen[1]["position"]
    assert data[model : model + 7000] == b"weights" * 1000
    for one in seen:
        end = zip_start - one["index_position"] + one["index_size"]
        assert one["sha256"] == hashlib.sha256(data[:end]).hexdigest()
    assert end == zip_start


# -- failures and old files


def folder_of(path: Path) -> list[str]:
    """Return the names beside a file."""
    return sorted(one.name for one in path.parent.iterdir())


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """Neither half a file nor its .part."""
    folder = tmp_path / "dist"
    folder.mkdir()
    path = folder / "some.pyz"
    write_file(path, [], entries)
    before, names = path.read_bytes(), folder_of(path)
    wheel = make_wheel(tmp_path, "pack", FILES, method=zipfile.ZIP_STORED)
    members = files_of(wheel)
    wheel.write_bytes(wheel.read_bytes()[:50])
    with pytest.raises(UsageError):
        write_file(path, [PayloadSpec("libraries", members)], entries)
    assert (path.read_bytes(), folder_of(path)) == (before, names)

    def broken(_: list[Payload]) -> dict[str, bytes]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(path, [], broken)
    assert (path.read_bytes(), folder_of(path)) == (before, names)


def test_a_target_that_is_a_folder_fails_and_leaves_nothing(tmp_path: Path) -> None:
    """The line is the system's."""
    (tmp_path / "some.pyz").mkdir()
    with pytest.raises(OSError, match=r"some\.pyz"):
        write_file(tmp_path / "some.pyz", [], entries)
    assert folder_of(tmp_path / "some.pyz") == ["some.pyz"]


def test_a_program_that_runs_from_the_old_file_lives_on(tmp_path: Path) -> None:
    """Open handles keep the old bytes: the name gets a new file."""
    path = tmp_path / "some.pyz"
    write_file(path, [], lambda _: {"late.py": b"HERE = 1\n"})
    with path.open("rb") as old:
        write_file(path, [], lambda _: {"late.py": b"HERE = 2\n" * 5000})
        assert zipfile.ZipFile(old).read("late.py") == b"HERE = 1\n"
        assert not os.path.samestat(os.fstat(old.fileno()), path.stat())


# -- what is read again


def test_a_file_of_ones_own_is_stored_as_it_is(tmp_path: Path) -> None:
    """Weights are noise: nothing is gained by compressing them. Their sum comes while copying."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    member = stored_file(tmp_path / "model.bin", "a/b.bin")
    assert (member.path, member.size, member.stored) == ("a/b.bin", 7, 7)
    assert (member.method, member.crc, member.executable) == (0, None, False)


def test_the_archive_reads_what_was_written(tmp_path: Path) -> None:
    """The reader is another module, in another place."""
    wheel = make_wheel(tmp_path, "pack", FILES)
    archive = make_file(tmp_path / "some.pyz", files_of(wheel))
    again = Archive(archive.path)
    assert dict(again.texts(lambda path: path == "pack/__init__.py")) == {
        "pack/__init__.py": "A = 1\n"
    }
