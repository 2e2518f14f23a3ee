"""Activation: when a start needs payloads, where they are found, what sys.path is after that.

These tests cover `provision`, too.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from kuwa_min.bundle import activate as libraries
from kuwa_min.bundle import provision
from kuwa_min.bundle.activate import (
    TargetEntry,
    UnpackedPayloads,
    activate,
    needs_payloads,
    pop_root_option,
)
from kuwa_min.bundle.archive import Archive
from kuwa_min.bundle.cache import Entry
from kuwa_min.bundle.cache_root import create_root
from kuwa_min.bundle.versions import python_minor
from kuwa_min.errors import StartError, WrongMachine
from kuwa_min.packing.assemble import ANYWHERE
from kuwa_min.packing.pyz import stored_file
from tests.support.small_files import files_of, make_file, make_wheel

HERE = python_minor()
ARGV0 = "/opt/some.pyz"
FILES = {"pack/__init__.py": b"NAME = 'pack'\n", "pack/data.bin": bytes(1000)}


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test a home, a sys.path and variables of its own."""
    for name in ("KUWA_MIN_ROOT", "XDG_CACHE_HOME", "PYTHONPATH", libraries.RESTARTED):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Make a small file with libraries in a folder of its own."""
    folder = tmp_path / "file"
    folder.mkdir()
    return make_file(folder / "some.pyz", files_of(make_wheel(folder, "pack", FILES)))


@pytest.fixture
def target(archive: Archive) -> TargetEntry:
    """Return what the launcher read out of that file."""
    return {"libraries": [archive.payloads[0]["id"]], "python": [HERE], "serves": ["some"]}


@pytest.fixture
def told() -> list[str]:
    """Collect the lines that a start logs."""
    return []


# -- the command line

WANTED = (
    ((), False),
    (("some",), True),
    (("some", "--port", "1"), True),
    (("some", "--help"), False),
    (("some", "-h"), False),
    (("some", "--check"), False),
    (("other",), False),
    (("--version",), False),
    (("verify",), False),
    (("cache", "--clean"), False),
    (("my/executor.py",), True),
    (("my/executor.py", "--help"), False),
    (("--port", "some"), False),
)


@pytest.mark.parametrize(("words", "expected"), WANTED)
def test_only_running_a_model_needs_payloads(words: tuple[str, ...], expected: bool) -> None:
    """By the backend that they are for, or by a custom executor's file."""
    assert needs_payloads([ARGV0, *words], {"serves": ["some"]}) is expected


PACKED: TargetEntry = {
    "executor": ["id", "mine", "src/mine%20too.py"],
    "plugins": ["parrot"],
    "serves": ["mine"],
}


def test_the_help_of_what_is_packed_needs_payloads() -> None:
    """It is in the executor's own source, which imports libraries; --check needs nothing."""
    for words, expected in (
        (("mine", "--help"), True),
        (("parrot", "-h"), True),
        (("mine", "--port", "1", "--check"), False),
        (("debug", "--help"), False),
        (("debug",), False),
    ):
        assert needs_payloads([ARGV0, *words], PACKED) is expected, words


ROOTS = (
    (("some", "--port", "1"), None, ["some", "--port", "1"]),
    (("some", "--root", "/r", "--port", "1"), "/r", ["some", "--port", "1"]),
    (("some", "--root=/r", "--port", "1"), "/r", ["some", "--port", "1"]),
    (("--root", "/r", "some"), "/r", ["some"]),
    (("some", "--root=/a=b"), "/a=b", ["some"]),
    (("some", "--rooted", "/r"), None, ["some", "--rooted", "/r"]),
)


@pytest.mark.parametrize(("words", "root", "left"), ROOTS)
def test_root_leaves_the_command_line(
    words: tuple[str, ...], root: str | None, left: list[str]
) -> None:
    """It becomes the variable: the executor's parser does not know the option."""
    argv = [ARGV0, *words]
    pop_root_option(argv)
    assert (os.environ.get("KUWA_MIN_ROOT"), argv) == (root, [ARGV0, *left])


# -- sys.path


def test_the_libraries_come_before_all_but_the_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also before PYTHONPATH; what .pth files add comes right behind them."""
    (tmp_path / "more").mkdir()
    (tmp_path / "their.pth").write_text("more\n", encoding="ascii")
    before = ["/some.pyz/site-packages", "/on/pythonpath", "/usr/lib/python3"]
    monkeypatch.setattr(sys, "path", before[:])
    libraries.extend_path(str(tmp_path), with_host=False)
    assert sys.path == [before[0], str(tmp_path), str(tmp_path / "more"), *before[1:]]


HOST = (
    ("/usr/lib/python3", True),
    ("/usr/lib/python3/lib-dynload", True),
    ("/on/pythonpath", True),
    ("/venv/lib/python3/site-packages", False),
    ("/venv/lib/python3/site-packages/", False),
    ("/home/me/.local/lib/python3/site-packages", False),
    ("/usr/lib/python3/dist-packages", False),
    ("/usr/local/my-site-packages", True),
)


@pytest.mark.parametrize("with_host", [False, True])
@pytest.mark.parametrize(("entry", "stays"), HOST)
def test_the_hosts_packages_are_hidden_unless_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, entry: str, stays: bool, with_host: bool
) -> None:
    """A mixture of libraries from both fails in ways that are hard to explain."""
    monkeypatch.setattr(sys, "path", ["/some.pyz/site-packages", entry])
    libraries.extend_path(str(tmp_path), with_host=with_host)
    assert (entry in sys.path) is (stays or with_host)
    assert sys.path[0] == "/some.pyz/site-packages"


@pytest.mark.parametrize(("others", "expected"), [("", "{0}"), ("/a:/b", "{0}:/a:/b")])
def test_children_find_the_libraries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, others: str, expected: str
) -> None:
    """Torch's compiler starts some."""
    monkeypatch.setenv("PYTHONPATH", others)
    libraries.extend_path(str(tmp_path), with_host=False)
    assert os.environ["PYTHONPATH"] == expected.format(tmp_path)


# -- on disk


def tree_of(entry: Entry) -> list[str]:
    """Return the files of an entry, without the wheel's metadata."""
    paths = (path for path in Path(entry.tree).rglob("*") if path.is_file())
    names = (path.relative_to(entry.tree).as_posix() for path in paths)
    return sorted(name for name in names if "dist-info" not in name)


def test_the_first_start_unpacks_and_the_next_one_only_looks(
    archive: Archive,
    target: TargetEntry,
    tmp_path: Path,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file itself is not opened again."""
    first = UnpackedPayloads(archive.path, target, told.append)
    first.open()
    root = tmp_path / "home" / ".cache" / "kuwa"
    entry = Entry(str(root), target["libraries"][0])
    assert first.folders == {"libraries": entry.tree}
    assert tree_of(entry) == sorted(FILES)
    assert [line.partition(" (")[0] for line in told] == ["unpacking libraries", told[1]]
    assert told[1].startswith("unpacked in ")
    told.clear()
    entry.mark_durable()
    monkeypatch.setattr(provision, "Archive", None)
    second = UnpackedPayloads(archive.path, target, told.append)
    second.open()
    assert second.folders == first.folders
    assert told == []


def test_the_entry_is_locked_while_the_process_lives(
    archive: Archive, target: TargetEntry, told: list[str]
) -> None:
    """Another process cannot remove it."""
    opened = UnpackedPayloads(archive.path, target, told.append)
    opened.open()
    root = str(Path(opened.folders["libraries"]).parents[1])
    assert not Entry(root, target["libraries"][0]).try_lock()


def test_a_folder_that_was_filled_beforehand_is_found(
    archive: Archive,
    target: TargetEntry,
    tmp_path: Path,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By `unpack DIR`, for KUWA_MIN_ROOT=DIR."""
    entries = provision.unpack_to(archive.path, str(tmp_path / "image"), told.append)
    monkeypatch.setenv("KUWA_MIN_ROOT", str(tmp_path / "image"))
    opened = UnpackedPayloads(archive.path, target, told.append)
    opened.open()
    assert opened.folders == {"libraries": entries[0].tree}
    assert not (tmp_path / "home" / ".cache").exists()


OTHERS = ("3.9", "3.99", f"{HERE}t" if not HERE.endswith("t") else HERE[:-1])


@pytest.mark.parametrize("minor", OTHERS)
def test_the_python_is_checked_even_when_all_is_unpacked(
    archive: Archive,
    target: TargetEntry,
    minor: str,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A warm cache is no reason to import what was built for another Python."""
    UnpackedPayloads(archive.path, target, told.append).open()
    built_for = {**ANYWHERE, "python": minor, "abi": f"cp{minor.replace('.', '')}"}
    monkeypatch.setattr(
        provision,
        "Archive",
        lambda path: made_for(path, {**archive.manifest, "built_for": built_for}),
    )
    with pytest.raises(WrongMachine, match=rf"Python {minor.rstrip('t')}; this is .*start it with"):
        UnpackedPayloads(archive.path, {**target, "python": [minor]}, told.append).open()


def made_for(path: str, manifest: object) -> Archive:
    """Return an archive that says it was made for something else."""
    archive = Archive(path)
    archive.manifest = manifest  # type: ignore[assignment]
    return archive


def test_a_cache_that_others_may_write_to_is_skipped_with_a_line(
    archive: Archive, target: TargetEntry, tmp_path: Path, told: list[str]
) -> None:
    """The next place is beside the file."""
    UnpackedPayloads(archive.path, target, told.append).open()
    root = tmp_path / "home" / ".cache" / "kuwa"
    root.chmod(0o777)
    opened = UnpackedPayloads(archive.path, target, told.append)
    opened.open()
    beside = Path(archive.path).parent / ".kuwa"
    assert opened.folders == {"libraries": str(beside / target["libraries"][0] / "tree")}
    assert any(line.startswith(f"others may write to {root}, so what lies in") for line in told)


def test_an_entry_that_others_may_write_to_is_never_run_from(
    archive: Archive, target: TargetEntry, tmp_path: Path, told: list[str]
) -> None:
    """Not by the second way either, which would unpack it if it were not there."""
    UnpackedPayloads(archive.path, target, told.append).open()
    entry = tmp_path / "home" / ".cache" / "kuwa" / target["libraries"][0]
    entry.chmod(0o777)
    opened = UnpackedPayloads(archive.path, target, told.append)
    with pytest.raises(StartError, match=rf"others may write to {entry}, so .* is not run"):
        opened.open()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.parametrize("part", ["", "{key}"])
def test_another_users_cache_is_never_run_from(
    archive: Archive,
    target: TargetEntry,
    tmp_path: Path,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    """A root that the user named is refused, not replaced by another."""
    root = tmp_path / "root"
    create_root(str(root))
    monkeypatch.setenv("KUWA_MIN_ROOT", str(root))
    UnpackedPayloads(archive.path, target, told.append).open()
    os.chown(root / part.format(key=target["libraries"][0]), 12345, -1)
    with pytest.raises(StartError, match=r"belongs to user 12345, so what lies in .* is not run"):
        UnpackedPayloads(archive.path, target, told.append).open()


def test_what_is_missing_is_put_back_once_a_day(
    archive: Archive, target: TargetEntry, told: list[str]
) -> None:
    """Programs that clean temporary folders remove single files."""
    first = UnpackedPayloads(archive.path, target, told.append)
    first.open()
    tree = Path(first.folders["libraries"])
    Entry(str(tree.parents[1]), target["libraries"][0]).mark_durable()
    (tree / "pack" / "data.bin").unlink()
    UnpackedPayloads(archive.path, target, told.append).open()
    assert not (tree / "pack" / "data.bin").exists()
    two_days_ago = time.time() - 2 * libraries.DAY
    os.utime(f"{tree.parent}.lock", (two_days_ago, two_days_ago))
    UnpackedPayloads(archive.path, target, told.append).open()
    assert (tree / "pack" / "data.bin").read_bytes() == FILES["pack/data.bin"]


def test_a_failed_start_is_repeated_if_files_were_missing(
    archive: Archive, target: TargetEntry, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and only then."""
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, words: started.append(words))
    opened = UnpackedPayloads(archive.path, target, told.append)
    opened.open()
    opened.restart_if_repaired()
    assert started == []
    Path(opened.folders["libraries"], "pack", "__init__.py").unlink()
    monkeypatch.setenv(libraries.RESTARTED, "1")
    opened.restart_if_repaired()
    assert started == []
    monkeypatch.delenv(libraries.RESTARTED)
    opened.restart_if_repaired()
    assert started == [[sys.executable, *sys.orig_argv[1:]]]
    assert os.environ[libraries.RESTARTED] == "1"


# -- all of it


def test_a_start_that_needs_nothing_touches_nothing(
    archive: Archive, target: TargetEntry, tmp_path: Path
) -> None:
    """Neither the disk nor sys.path; --root leaves the command line all the same."""
    before, argv = sys.path[:], [ARGV0, "cache", "--root", str(tmp_path / "root")]
    assert activate(archive.path, target, argv) is None
    assert (sys.path, argv) == (before, [ARGV0, "cache"])
    assert os.environ["KUWA_MIN_ROOT"] == str(tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("words", "more", "with_host"),
    [
        (["some"], {}, False),
        (["some"], {"host": ["torch"]}, True),
        (["mine.py"], {}, True),
    ],
)
def test_a_start_that_needs_them_finds_them_importable(
    archive: Archive,
    target: TargetEntry,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    more: TargetEntry,
    with_host: bool,
) -> None:
    """A custom executor's file may use what the host has; so must a thin file."""
    monkeypatch.setattr(sys, "path", ["/some.pyz/site-packages", "/host/site-packages"])
    opened = activate(archive.path, {**target, **more}, [ARGV0, *words])
    assert opened is not None
    assert sys.path[1] == opened.folders["libraries"]
    assert ("/host/site-packages" in sys.path) is with_host


NAMES = (("", ""), ("small.gguf", "small.gguf"), ("my%20%E4%B8%AD.gguf", "my 中.gguf"))


@pytest.mark.parametrize(("word", "name"), NAMES)
def test_an_embedded_model_becomes_an_option(tmp_path: Path, word: str, name: str) -> None:
    """Its folder or its one file; before the others, so that another --model_path wins."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    file = stored_file(tmp_path / "model.bin", name or "config.json")
    archive = make_file(tmp_path / "some.pyz", [file], "model")
    argv = [ARGV0, "some", "--port", "1"]
    key = archive.payloads[0]["id"]
    words = [key, word] if word else [key]
    target = {"model": words, "python": [HERE], "serves": ["some"]}
    opened = activate(archive.path, target, argv)
    assert opened is not None
    path = Path(opened.folders["model"], name)
    first, option, given, *rest = argv[1:]
    assert (first, option, Path(given), rest) == ("some", "--model_path", path, ["--port", "1"])
    assert path.exists()


def test_a_custom_executors_file_is_not_given_the_model(tmp_path: Path) -> None:
    """It may not know the option."""
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    file = stored_file(tmp_path / "small.gguf", "small.gguf")
    archive = make_file(tmp_path / "some.pyz", [file], "model")
    argv = [ARGV0, "mine.py", "--port", "1"]
    target = {"model": [archive.payloads[0]["id"]], "python": [HERE], "serves": ["some"]}
    activate(archive.path, target, argv)
    assert argv[1:] == ["mine.py", "--port", "1"]


def test_what_keeps_it_from_starting_ends_the_process(
    archive: Archive,
    target: TargetEntry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A line per reason, and the code that says whose fault it is."""
    (tmp_path / "in the way").touch()
    monkeypatch.setenv("KUWA_MIN_ROOT", str(tmp_path / "in the way"))
    with pytest.raises(SystemExit) as ended:
        activate(archive.path, target, [ARGV0, "some"])
    assert ended.value.code == WrongMachine.exit_code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("some.pyz: error: nowhere to unpack to: ")
    assert "in the way is not a folder; name a folder by --root DIR or KUWA_MIN_ROOT" in line


def test_ctrl_c_ends_without_a_word(
    archive: Archive,
    target: TargetEntry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As every program ends."""

    def interrupt(_: UnpackedPayloads) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(UnpackedPayloads, "open", interrupt)
    with pytest.raises(SystemExit) as ended:
        activate(archive.path, target, [ARGV0, "some"])
    assert (ended.value.code, capsys.readouterr().err) == (130, "")


def test_a_packed_executor_runs_on_any_python_from_its_folder(
    archive: Archive, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without libraries; the folder is changed only if it was packed so."""
    monkeypatch.chdir(Path(archive.path).parent)
    payload = archive.payloads[0]["id"]
    target: TargetEntry = {
        **PACKED,
        "libraries": [payload],
        "executor": [payload, *PACKED["executor"][1:]],
        "python": [">=3.10"],
    }
    for changes in (False, True):
        if changes:
            target["chdir"] = []
        packed = UnpackedPayloads(archive.path, target, told.append)
        packed._entries["executor"] = Entry(str(Path(archive.path).parent), payload)
        folder = packed.folders["executor"]
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        assert packed.executor("debug") == ""
        assert packed.executor("mine") == f"{folder}/src/mine too.py"
        assert (os.getcwd() == os.path.realpath(folder)) is changes  # noqa: PTH109
        assert packed._is_for_this_python()
