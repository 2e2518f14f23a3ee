"""The commands of a built file about itself, in this process and in a real file."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

from kuwa_min.bundle import commands
from kuwa_min.bundle.archive import Archive
from kuwa_min.errors import StartError, UsageError, WrongMachine
from kuwa_min.packing.pyz import write_file
from tests.support.small_files import files_of, make_file, make_wheel, manifest_of
from tests.support.stub_build import below, built, payload_id, start

FILES = {"pack/__init__.py": b"NAME = 'pack'\n", "pack/data.bin": bytes(5000)}
GOOD = "good: this file runs on every Python from 3.10 on and unpacks nothing"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give each test a home of its own."""
    for name in ("KUWA_MIN_ROOT", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Run from a small file with libraries."""
    (tmp_path / "file").mkdir()
    wheel = make_wheel(tmp_path, "pack", FILES)
    archive = make_file(tmp_path / "file" / "kuwa-some.pyz", files_of(wheel))
    monkeypatch.setattr(commands, "this_file", lambda: Archive(archive.path))
    return archive


@pytest.fixture
def pure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run from a small file without libraries."""
    path = tmp_path / "kuwa-some.pyz"
    write_file(path, [], lambda _: {"manifest.json": json.dumps(manifest_of([])).encode()})
    monkeypatch.setattr(commands, "this_file", lambda: Archive(str(path)))
    return path


def said(verb: str, *words: str) -> list[str]:
    """Return the lines of a verb."""
    return list(getattr(commands, verb)("kuwa-some.pyz", list(words)))


def flip(path: Path, place: int) -> None:
    """Damage one byte."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


# -- where there is nothing to tell


def test_the_sources_are_no_built_file() -> None:
    """The line says how to get one."""
    with pytest.raises(UsageError, match=r"its sources: build one \(python build\.py\)"):
        commands.this_file()


def test_a_file_without_libraries_says_so(pure: Path) -> None:
    """It runs everywhere, has nothing to unpack, and knows what it holds."""
    digest = hashlib.sha256(pure.read_bytes()).hexdigest()
    assert list(commands.check()) == [GOOD]
    assert said("verify") == [f"sha256 {digest}, as kuwa-some.pyz.sha256 says"]
    nothing = "this file unpacks nothing and knows no cache; ask one that carries libraries"
    assert said("cache") == [nothing]
    assert said("unpack", str(pure.parent / "there")) == ["this file carries nothing to unpack"]
    assert not (pure.parent / "there").exists()
    assert commands.info().startswith("kuwa-min 0.1.0\nbackend ")
    assert '"bomFormat": "CycloneDX"' in commands.sbom()
    assert commands.licenses().startswith("Licences of kuwa-min 0.1.0, some\n")


# -- --check


def test_check_names_what_is_needed_and_where_it_can_go(heavy: Archive, home: Path) -> None:
    """It writes nothing."""
    lines = list(commands.check())
    assert lines[0].startswith("good: needs Python 3.10 or newer; this is Python ")
    places = [home / ".cache" / "kuwa", Path(heavy.path).parent / ".kuwa"]
    assert lines[1:] == [f"good: can unpack to {place}" for place in places]
    assert below(home) == []


def test_check_fails_without_a_usable_root(
    heavy: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After all other lines."""
    (tmp_path / "taken").touch()
    monkeypatch.setenv("KUWA_MIN_ROOT", str(tmp_path / "taken"))
    lines = commands.check()
    assert next(lines).startswith("good: ")
    assert next(lines) == f"warning: no place: {tmp_path / 'taken'} is not a folder"
    with pytest.raises(WrongMachine, match="the lines above say why"):
        next(lines)


def test_check_fails_on_the_wrong_machine(heavy: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though a root is usable."""
    heavy.manifest["built_for"] = {**heavy.manifest["built_for"], "os": "templeos"}
    monkeypatch.setattr(commands, "this_file", lambda: heavy)
    lines: list[str] = []
    with pytest.raises(WrongMachine):
        lines.extend(line for line in commands.check() if not lines.append(line))
    assert any(line.startswith("refusal: needs templeos") for line in lines)
    assert any(line.startswith("good: can unpack to ") for line in lines)


# -- verify


def test_verify_compares_the_file_with_what_lies_beside_it(heavy: Archive) -> None:
    """Without that, it says what the file's hash is."""
    digest = hashlib.sha256(Path(heavy.path).read_bytes()).hexdigest()
    nothing = "nothing is unpacked yet"
    assert said("verify") == [f"sha256 {digest}, as kuwa-some.pyz.sha256 says", nothing]
    Path(f"{heavy.path}.sha256").unlink()
    missing = f"sha256 {digest}; there is no kuwa-some.pyz.sha256 beside it to compare with"
    assert said("verify") == [missing, nothing]


@pytest.mark.parametrize("place", [25, -1])
def test_verify_finds_a_flipped_bit(heavy: Archive, place: int) -> None:
    """In a payload by its own hash, in the last byte by the hash beside the file."""
    flip(Path(heavy.path), place)
    with pytest.raises(StartError, match=r"kuwa-some\.pyz is damaged: copy it again"):
        said("verify")


def test_verify_without_a_hash_beside_the_file_still_finds_damage(heavy: Archive) -> None:
    """The manifest has the payloads' hashes."""
    Path(f"{heavy.path}.sha256").unlink()
    flip(Path(heavy.path), 25)
    with pytest.raises(StartError, match="is damaged"):
        said("verify")


def test_verify_without_a_hash_finds_damage_where_no_library_is(pure: Path) -> None:
    """In code that this process has not read, by its CRC."""
    manifest = json.dumps(manifest_of([])).encode()
    write_file(pure, [], lambda _: {"manifest.json": manifest, "code.py": b"x = 12345\n"})
    with zipfile.ZipFile(pure) as archive:
        code = archive.getinfo("code.py")
    flip(pure, code.header_offset + 30 + len("code.py"))
    with pytest.raises(StartError, match="is damaged"):
        said("verify")


@pytest.mark.parametrize("text", ["", "\n", "\xff", "0" * 64 + "  kuwa-some.pyz\n"])
def test_a_hash_that_is_missing_or_different_is_reported(heavy: Archive, text: str) -> None:
    """An empty file counts as none."""
    Path(f"{heavy.path}.sha256").write_bytes(text.encode("latin-1"))
    if text.startswith("0"):
        with pytest.raises(StartError, match=r"its sha256 is \w+, expected is 0{64}"):
            said("verify")
    else:
        assert "to compare with" in said("verify")[0]


def test_verify_puts_back_what_was_changed_on_disk(
    heavy: Archive, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte by byte, in every root that has an entry."""
    said("unpack", str(home / ".cache" / "kuwa"))
    said("unpack", str(Path(heavy.path).parent / ".kuwa"))
    key = heavy.payloads[0]["id"]
    data = home / ".cache" / "kuwa" / key / "tree" / "pack" / "data.bin"
    flip(data, 0)
    files = heavy.payloads[0]["files"]
    assert said("verify")[1:] == [
        f"{home}/.cache/kuwa/{key}: {files} files, put back: 1",
        f"{Path(heavy.path).parent}/.kuwa/{key}: {files} files, whole",
    ]
    assert data.read_bytes() == FILES["pack/data.bin"]
    assert f"pack/data.bin in {data.parents[1]}: missing or damaged; put back" in (
        capsys.readouterr().err
    )


def test_verify_does_not_touch_what_others_could_have_changed(heavy: Archive, home: Path) -> None:
    """A repair would make it look sound."""
    said("unpack", str(home / ".cache" / "kuwa"))
    (home / ".cache" / "kuwa").chmod(0o777)
    with pytest.raises(StartError, match="others may write to"):
        said("verify")


# -- cache and unpack


def test_unpack_makes_a_root(heavy: Archive, tmp_path: Path) -> None:
    """Readable by all, complete, with its use; a second run changes nothing."""
    entry = tmp_path / "image" / heavy.payloads[0]["id"]
    line = f"{entry}: the folder becomes a root for --root DIR or KUWA_MIN_ROOT"
    assert said("unpack", str(tmp_path / "image")) == [line]
    assert (entry / "tree" / "pack" / "data.bin").read_bytes() == FILES["pack/data.bin"]
    modes = {path.stat().st_mode & 0o777 for path in entry.rglob("*")}
    assert modes == {0o755, 0o644}
    times = {path: path.stat().st_mtime_ns for path in (entry / "tree").rglob("*")}
    assert said("unpack", str(tmp_path / "image")) == [line]
    assert times == {path: path.stat().st_mtime_ns for path in (entry / "tree").rglob("*")}


def test_the_cache_is_listed_and_cleaned(heavy: Archive, home: Path) -> None:
    """With size and last use; those of this file are marked."""
    root = home / ".cache" / "kuwa"
    said("unpack", str(root))
    other = root / ("0" * 20)
    (other / "tree").mkdir(parents=True)
    (other / "made").touch()
    os.utime(root / f"{heavy.payloads[0]['id']}.lock", (86400, 86400))
    (root / f"{other.name}.lock").touch()
    os.utime(root / f"{other.name}.lock", (0, 0))
    mine, strange = said("cache")
    assert mine.startswith(f"{root / heavy.payloads[0]['id']}  ")
    assert mine.endswith("last used 1970-01-02  (of this file)")
    assert strange.endswith("0 bytes  last used 1970-01-01")
    removed = [f"removed {root / heavy.payloads[0]['id']}", f"removed {other}"]
    assert said("cache", "--clean") == removed
    assert said("cache") == []


def test_an_option_that_a_verb_does_not_know_is_refused(
    heavy: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    """By argparse, under the verb's name."""
    for verb, words in {"verify": ["--x"], "cache": ["--cl"], "unpack": ["a", "b"]}.items():
        with pytest.raises(SystemExit) as ended:
            said(verb, *words)
        assert ended.value.code == 2
        assert f"kuwa-some.pyz {verb}: error: unrecognized" in capsys.readouterr().err


# -- documents


def test_the_documents_are_those_that_lie_beside_the_file(heavy: Archive) -> None:
    """A bill of materials that tools read, and licenses in plain text."""
    bill = json.loads(commands.sbom())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert commands.licenses().startswith("Licences of kuwa-min 0.1.0, some\n")
    assert "libraries   " in commands.info()


# -- the real file


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build kuwa-huggingface.pyz with stubs of its libraries, once."""
    return built(tmp_path_factory.mktemp("real"))


VERBS = (
    ("--check", "good: needs Python "),
    ("huggingface --check", "good: needs Python "),
    ("debug --check", "good: needs Python "),
    ("--info", "torch "),
    ("--sbom", '"bomFormat": "CycloneDX"'),
    ("--licenses", "Licences of kuwa-min "),
    ("verify", ", as kuwa-huggingface.pyz.sha256 says\nnothing is unpacked yet\n"),
    ("unpack {tmp}/root", "{tmp}/root/{key}: the folder becomes a root"),
    ("verify --root {tmp}/root", "{tmp}/root/{key}: 36 files, whole\n"),
    ("cache --root {tmp}/root", "(of this file)\n"),
    ("cache --clean --root {tmp}/root", "removed {tmp}/root/{key}\n"),
    ("cache --root={tmp}/root", ""),
)


@pytest.mark.slow
def test_the_real_file_knows_every_verb(real: Path, tmp_path: Path) -> None:
    """One after the other, from a folder of its own; the home stays empty."""
    facts = {"tmp": tmp_path, "key": payload_id(real)}
    (tmp_path / "home2").mkdir()
    for words, expected in VERBS:
        command = [word.format(**facts) for word in words.split()]
        done = start(sys.executable, "-Werror", real, *command, HOME=tmp_path / "home2")
        assert (done.code, words) == (0, words), done.err
        assert expected.format(**facts) in done.out
    assert below(tmp_path / "home2") == []


@pytest.mark.slow
def test_the_real_file_prints_the_documents_that_lie_beside_it(real: Path) -> None:
    """To the byte."""
    for word, suffix in {"--sbom": "cdx.json", "--licenses": "licenses.txt"}.items():
        beside = real.with_name(f"{real.name}.{suffix}").read_text(encoding="utf-8")
        assert start(sys.executable, real, word).out == beside
