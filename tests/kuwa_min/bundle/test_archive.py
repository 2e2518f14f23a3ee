"""The built file: positions count back from the zip, contents are checked, damage is named."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import pytest

from kuwa_min.bundle.archive import Archive, Blob, contents
from kuwa_min.bundle.sbom import is_license_file
from kuwa_min.errors import StartError
from tests.support.small_files import files_of, make_file, make_wheel

FILES = {"pack/__init__.py": b"A = 1\n" * 1000, "pack/data.bin": bytes(range(256)) * 4096}


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Make a file with one wheel's contents."""
    wheel = make_wheel(tmp_path, "pack", {**FILES, "pack-1.0.dist-info/LICENSE": b"Be good."})
    return make_file(tmp_path / "kuwa-some.pyz", files_of(wheel))


def read_all(archive: Archive) -> dict[str, bytes]:
    """Read every file of every payload."""
    found = {}
    with Path(archive.path).open("rb") as file:
        for payload in archive.payloads:
            index, start = archive.index(payload), archive.start_of(payload)
            for one in index.files:
                pieces = contents(file.fileno(), start, index.blobs[one.blob], archive.path)
                found[one.path] = b"".join(pieces)
    return found


def test_every_content_is_read_as_it_was(archive: Archive) -> None:
    """Deflated streams come out as the wheel's files."""
    found = read_all(archive)
    assert {path: found[path] for path in FILES} == FILES


def test_another_first_line_changes_nothing_else(archive: Archive, tmp_path: Path) -> None:
    """Positions count back from the zip, so users may edit the shebang."""
    whole = Path(archive.path).read_bytes()
    longer = tmp_path / "longer.pyz"
    longer.write_bytes(b"#!/opt/some/where/else/bin/python3.12 -s\n" + whole.partition(b"\n")[2])
    assert read_all(Archive(str(longer))) == read_all(archive)


def test_a_stored_content_is_read_in_chunks(tmp_path: Path) -> None:
    """The bytes come unchanged, whatever their number."""
    data = bytes(range(256)) * 3000
    path = tmp_path / "data"
    path.write_bytes(b"before" + data + b"after")
    blob = Blob(4, len(data), len(data), 0, zlib.crc32(data), "")
    with path.open("rb") as file:
        pieces = list(contents(file.fileno(), 2, blob, "data"))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) < len(data)


@pytest.mark.parametrize("field", ["crc", "size"])
def test_a_wrong_sum_is_damage(archive: Archive, field: str) -> None:
    """A content that is not what was built is never silently used."""
    payload = archive.payloads[0]
    blob = archive.index(payload).blobs[0]
    wrong = blob._replace(**{field: getattr(blob, field) + 1})
    with Path(archive.path).open("rb") as file, pytest.raises(StartError, match="is damaged"):
        list(contents(file.fileno(), archive.start_of(payload), wrong, archive.path))


def flip(path: Path, position: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def test_the_hash_is_the_files_own(archive: Archive) -> None:
    """What sha256sum would print."""
    expected = hashlib.sha256(Path(archive.path).read_bytes()).hexdigest()
    seen: list[tuple[int, int]] = []
    assert archive.sha256(lambda done, total: seen.append((done, total))) == expected
    assert seen[-1] == (archive.size, archive.size)
    beside = Path(f"{archive.path}.sha256").read_text(encoding="ascii")
    assert beside == f"{expected}  kuwa-some.pyz\n"


@pytest.mark.parametrize("place", ["payload", "index"])
def test_a_flipped_bit_is_found(archive: Archive, place: str) -> None:
    """By the payload's own hash, without a file to compare with."""
    payload = archive.payloads[0]
    back = payload["position"] - 100 if place == "payload" else payload["index_position"] - 10
    flip(Path(archive.path), archive.zip_start - back)
    with pytest.raises(StartError, match="is damaged: copy it again"):
        Archive(archive.path).sha256(lambda *_: None)


def test_a_damaged_index_is_named(archive: Archive) -> None:
    """Not a traceback of zlib."""
    flip(Path(archive.path), archive.zip_start - archive.payloads[0]["index_position"] + 20)
    with pytest.raises(StartError, match="is damaged"):
        archive.index(archive.payloads[0])


@pytest.mark.parametrize("cut", [1, 50, 100_000])
def test_a_truncated_file_is_named(archive: Archive, tmp_path: Path, cut: int) -> None:
    """A copy that stopped half way."""
    whole = Path(archive.path).read_bytes()
    short = tmp_path / "short.pyz"
    short.write_bytes(whole[:-cut])
    with pytest.raises(StartError, match=r"short\.pyz is damaged"):
        Archive(str(short))


def test_no_flipped_bit_of_the_zip_is_a_traceback(archive: Archive, tmp_path: Path) -> None:
    """It is damage, or it changes nothing that is read."""
    whole, damaged = Path(archive.path).read_bytes(), tmp_path / "flipped.pyz"
    for position in range(archive.zip_start, len(whole)):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        damaged.write_bytes(data)
        try:
            assert Archive(str(damaged)).manifest == archive.manifest
        except StartError as error:
            assert str(error).startswith(f"{damaged} is damaged: ")


def test_license_files_are_read_out_of_the_payload(archive: Archive) -> None:
    """Without unpacking anything."""
    assert list(archive.texts(is_license_file)) == [("pack-1.0.dist-info/LICENSE", "Be good.")]
