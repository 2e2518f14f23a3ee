"""Parked chats on disk: what comes back after a restart, and what never does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backends._local.prompt_cache import state_files
from backends._local.prompt_cache.parked import ParkedState, as_bytes
from backends._local.prompt_cache.state_files import KEY_BYTES, StateFiles, check_folder
from kuwa_min.errors import UsageError

KEY, OTHER = b"k" * KEY_BYTES, b"o" * KEY_BYTES
LARGE = 10**9


def entry(number: int, state: bytes = b"state of some tokens") -> ParkedState:
    """Return a parked chat."""
    return ParkedState(as_bytes([number, 2, 3]), state)


def restart(
    folder: Path, *entries: ParkedState, key: bytes = KEY, max_bytes: int = LARGE
) -> list[tuple[bytes, bytes]]:
    """Return what a process finds, after which it writes these and ends."""
    found: list[tuple[bytes, bytes]] = []

    def add(one: ParkedState) -> bool:
        found.append((one.tokens, bytes(one.state)))
        return True

    files = StateFiles(folder, key)
    files.start(add, max_bytes)
    for one in entries:
        files.write(one)
    files.close()
    return found


def pairs(*entries: ParkedState) -> list[tuple[bytes, bytes]]:
    """Return what `restart` returns of these."""
    return [(one.tokens, bytes(one.state)) for one in entries]


def paths(folder: Path) -> list[Path]:
    """Return the files of all chats."""
    return sorted(folder.rglob("*.chat"))


def test_what_was_written_is_read_at_the_next_start(tmp_path: Path) -> None:
    """The latest first; only this user may read it."""
    one, two = entry(1), entry(2, bytes(range(256)) * 5000)
    assert restart(tmp_path, one) == []
    (path,) = paths(tmp_path)
    os.utime(path, (1, 1))
    assert restart(tmp_path, two) == pairs(one)
    assert restart(tmp_path) == pairs(two, one)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_chats_of_the_same_tokens_with_other_adapters_have_files_of_their_own(
    tmp_path: Path,
) -> None:
    """None is taken for another one after a restart."""
    tokens = as_bytes([1, 2, 3])
    states = [ParkedState(tokens, one.encode(), one) for one in ("", "a*1", "b*0.5")]
    restart(tmp_path, *states)
    found: list[tuple[str, bytes]] = []

    def add(one: ParkedState) -> bool:
        found.append((one.adapters, bytes(one.state)))
        return True

    files = StateFiles(tmp_path, KEY)
    files.start(add, LARGE)
    files.remove(states[1])
    files.close()
    assert sorted(found) == [(one.adapters, bytes(one.state)) for one in states]
    assert len(restart(tmp_path)) == 2


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the state": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "a bit of the tokens": lambda data: data[:-25] + bytes([data[-25] ^ 1]) + data[-24:],
    "shorter": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "empty": lambda data: b"",
    "a head only": lambda data: data[:60],
    "another program's": lambda data: b"x" + data[1:],
    "of another key": lambda data: data.replace(KEY, OTHER),
    "of an impossible size": lambda data: data[:88] + b"\xff" * 16 + data[104:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_deleted_and_never_used(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """The others are."""
    caplog.set_level("INFO")
    restart(tmp_path, entry(1))
    (path,) = paths(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    restart(tmp_path, entry(2))
    assert restart(tmp_path) == pairs(entry(2))
    assert not path.exists()
    assert "1 damaged ones were dropped" in caplog.text


def test_a_file_under_the_name_of_another_is_not_used(tmp_path: Path) -> None:
    """Nor are what an interrupted write left, and what is no chat."""
    restart(tmp_path, entry(1))
    (path,) = paths(tmp_path)
    path.rename(path.with_name("0" * 64 + ".chat"))
    path.with_suffix(".partial").write_bytes(b"half")
    (path.parent / "notes.txt").write_text("?", encoding="ascii")
    assert restart(tmp_path) == []
    assert [one.name for one in path.parent.iterdir()] == ["lock"]


def test_what_is_over_the_budget_is_deleted(tmp_path: Path) -> None:
    """The oldest."""
    restart(tmp_path, entry(1))
    os.utime(paths(tmp_path)[0], (1, 1))
    restart(tmp_path, entry(2))
    size = paths(tmp_path)[0].stat().st_size
    assert restart(tmp_path, max_bytes=size + 1) == pairs(entry(2))
    assert len(paths(tmp_path)) == 1


def test_what_is_dropped_is_deleted(tmp_path: Path) -> None:
    """Also what was not written yet; and a use is noted."""
    restart(tmp_path, entry(1), entry(2))
    for path in paths(tmp_path):
        os.utime(path, (1, 1))
    files = StateFiles(tmp_path, KEY)
    files.start(lambda _: True, LARGE)
    files.remove(entry(1))
    files.write(entry(3))
    files.remove(entry(3))
    files.touch(entry(2))
    files.close()
    (path,) = paths(tmp_path)
    assert path.stat().st_mtime > 1
    assert restart(tmp_path) == pairs(entry(2))


def test_chats_of_another_model_are_removed_unless_in_use(tmp_path: Path) -> None:
    """A process that has the folder keeps what it wrote; other files stay."""
    (tmp_path / "letters").mkdir()
    restart(tmp_path, entry(1), key=OTHER)
    using = StateFiles(tmp_path, OTHER)
    using.start(lambda _: True, LARGE)
    assert using.was_read.wait(60)
    assert restart(tmp_path, entry(2)) == []
    assert len(paths(tmp_path)) == 2
    using.close()
    assert restart(tmp_path) == pairs(entry(2))
    assert len(paths(tmp_path)) == 1
    assert (tmp_path / "letters").is_dir()


def test_nothing_of_other_programs_is_removed(tmp_path: Path) -> None:
    """Many name their folders by a hash, too."""
    restart(tmp_path, entry(1), key=OTHER)
    (ours,) = tmp_path.iterdir()
    for number, name in enumerate(("thesis.txt", "a.chat", "lock")):
        folder = tmp_path / f"{number}".zfill(len(ours.name))
        folder.mkdir()
        (folder / name).touch()
    (folder / "other").touch()
    restart(tmp_path, entry(2))
    assert not ours.exists()
    assert len(list(tmp_path.iterdir())) == 4


OBSTACLES: dict[str, Callable[[Path], object]] = {
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a pipe": lambda path: os.mkfifo(path),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such files")
@pytest.mark.parametrize("make", OBSTACLES.values(), ids=OBSTACLES)
def test_what_is_no_file_is_passed_over(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """The chats beside it are read, and later ones kept."""
    restart(tmp_path, entry(1))
    (path,) = paths(tmp_path)
    make(path.with_name("obstacle.chat"))
    assert restart(tmp_path, entry(2)) == pairs(entry(1))
    assert len(restart(tmp_path)) == 2


def test_a_folder_that_cannot_be_read_still_takes_chats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong is said."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda _: os.scandir(tmp_path / "nothing"))
        restart(tmp_path, entry(1))
    assert "are not read: No such file" in caplog.text
    assert restart(tmp_path) == pairs(entry(1))


def test_a_second_process_keeps_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It says so, and answers all the same."""
    restart(tmp_path, entry(1))
    first = StateFiles(tmp_path, KEY)
    first.start(lambda _: True, LARGE)
    assert restart(tmp_path, entry(2)) == []
    assert "another process uses it" in caplog.text
    first.close()
    assert restart(tmp_path) == pairs(entry(1))


def test_a_full_disk_is_one_line_and_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Later chats are tried again."""
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    restart(tmp_path, entry(1), entry(2))
    monkeypatch.setattr(Path, "replace", replace)
    assert caplog.text.count("a chat was not kept") == 1
    assert "No space left" in caplog.text
    assert [path.name for path in next(tmp_path.iterdir()).iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("mode", "words"),
    [(0o755, "others may enter it"), (0o777, "others may write to"), (0o710, "others may enter")],
)
def test_a_folder_that_others_may_read_is_refused(tmp_path: Path, mode: int, words: str) -> None:
    """It would hold what people wrote."""
    folder = tmp_path / "chats"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(UsageError, match=words):
        check_folder(folder)


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the rules for all that lies on the disk."""
    monkeypatch.setattr(state_files, "reason_untrusted", lambda path: f"{path} belongs to user 7")
    with pytest.raises(UsageError, match="belongs to user 7"):
        check_folder(tmp_path)


def test_a_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    """Whatever the umask; what is a file is refused."""
    check_folder(tmp_path / "new" / "chats")
    assert (tmp_path / "new" / "chats").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be used: File exists"):
        check_folder(tmp_path / "file")
