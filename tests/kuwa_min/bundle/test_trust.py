"""What may be run of what lies on the disk: every way in which another user could have put it."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kuwa_min.bundle import trust

STRANGER = 12345
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


def reason(path: Path, *owners: int) -> str:
    """Return why a path is not trusted."""
    return trust.reason_untrusted(str(path), owners)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Make a file two folders below the test's own, for this user alone to write to."""
    (tmp_path / "above" / "here").mkdir(parents=True, mode=0o755)
    path = tmp_path / "above" / "here" / "file"
    path.write_text("", encoding="ascii")
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_a_file_that_others_may_write_to_is_not_trusted(file: Path, mode: int) -> None:
    """Nor one that a group may write to which is not its owner's alone."""
    assert reason(file) == ""
    file.chmod(mode)
    assert reason(file) == f"others may write to {file}"


@pytest.mark.parametrize("depth", [0, 1])
def test_a_folder_above_must_be_sticky_if_others_may_write_to_it(file: Path, depth: int) -> None:
    """In a sticky one they cannot replace what is ours."""
    folder = file.parents[depth]
    folder.chmod(0o777)
    assert reason(file) == f"others may write to {folder}"
    folder.chmod(0o1777)
    assert reason(file) == ""


@is_root
def test_what_a_stranger_owns_is_not_trusted(file: Path) -> None:
    """The file, or a folder above it; unless that user is trusted besides."""
    for path in (file, file.parent, file.parents[1]):
        os.chown(path, STRANGER, STRANGER)
        assert reason(file) == f"{path} belongs to user {STRANGER}"
        assert reason(file, STRANGER) == ""
        os.chown(path, 0, 0)


@is_root
def test_a_strangers_link_to_what_is_trusted_is_not(file: Path) -> None:
    """It may lead elsewhere a moment later; also as one of several links, and to a folder."""
    shared = file.parents[1]
    shared.chmod(0o1777)
    (shared / "link").symlink_to("here")
    (shared / "second").symlink_to(shared / "link")
    assert [reason(shared / name / "file") for name in ("link", "second")] == ["", ""]
    os.lchown(shared / "link", STRANGER, STRANGER)
    found = [reason(shared / name / "file") for name in ("link", "second")]
    assert found == [f"{shared}/link belongs to user {STRANGER}"] * 2


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """What they lead to does not exist."""
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert reason(tmp_path / "one" / "file") == ""


@is_root
@pytest.mark.parametrize(
    ("group", "members", "is_trusted"),
    [("ann", [], True), ("ann", ["ann"], True), ("ann", ["eve"], False), ("staff", [], False)],
)
def test_a_group_of_its_owner_alone_may_write(
    file: Path, monkeypatch: pytest.MonkeyPatch, group: str, members: list[str], is_trusted: bool
) -> None:
    """With such groups, umask 002 is the default of many systems."""
    user = SimpleNamespace(pw_name="ann", pw_gid=STRANGER)
    named = SimpleNamespace(gr_name=group, gr_gid=STRANGER, gr_mem=members)
    monkeypatch.setattr(pwd, "getpwuid", {STRANGER: user}.__getitem__)
    monkeypatch.setattr(grp, "getgrgid", {STRANGER: named}.__getitem__)
    for path, mode in ((file, 0o664), (file.parent, 0o775)):
        os.chown(path, STRANGER, STRANGER)
        path.chmod(mode)
    assert (reason(file, STRANGER) == "") == is_trusted


@is_root
def test_strangers_of_a_container_own_what_is_above_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a rootless one, / is theirs; but not in a folder that all write to, and not the file."""
    monkeypatch.setattr(trust, "_overflow_uid", lambda: STRANGER)
    above, here = file.parents[1], file.parent
    os.chown(here, STRANGER, STRANGER)
    assert reason(file) == ""
    above.chmod(0o1777)
    assert reason(file) == f"{here} belongs to user {STRANGER}"
    above.chmod(0o755)
    os.chown(file, STRANGER, STRANGER)
    assert reason(file) == f"{file} belongs to user {STRANGER}"


@is_root
def test_what_is_roots_others_may_run() -> None:
    """As in an image: a root-owned folder that no other user can write to."""
    program = """
import os, sys
from kuwa_min.bundle import trust
os.setuid(12345)
print(repr(trust.reason_untrusted(sys.argv[1])), [*trust.untrusted_folders(sys.argv[1])])
"""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        command = [sys.executable, "-c", program, folder]
        assert subprocess.run(command, capture_output=True, check=True).stdout == b"'' []\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.chmod(0o777), "others may write to {}"),
        pytest.param(
            lambda path: os.chown(path, STRANGER, STRANGER),
            f"{{}} belongs to user {STRANGER}",
            marks=is_root,
        ),
    ],
)
def test_folders_of_a_tree_are_found_that_others_could_fill(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    """At every depth; what is below one is not looked at, and links are not followed."""
    open_one = tmp_path / "a" / "b" / "__pycache__"
    (open_one / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("/tmp")
    assert list(trust.untrusted_folders(str(tmp_path))) == []
    for path in (open_one / "below", open_one):
        change(path)
    expected = [(str(open_one), said.format(open_one))]
    assert list(trust.untrusted_folders(str(tmp_path))) == expected
