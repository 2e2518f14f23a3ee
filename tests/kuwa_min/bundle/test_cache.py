"""The cache: where it may be, who may touch it, what happens when things go wrong there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kuwa_min.bundle import cache, cache_root, trust
from kuwa_min.bundle.cache import Entry
from kuwa_min.errors import StartError

KEY = "0123456789abcdef0123"
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
LOCK_SHARED = """
import sys
from kuwa_min.bundle.cache import Entry
print(Entry(sys.argv[1], sys.argv[2]).lock_shared(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make an empty cache."""
    cache_root.create_root(str(tmp_path / "root"))
    return tmp_path / "root"


def filled(root: Path, key: str = KEY) -> Entry:
    """Make a complete entry with one file."""
    entry = Entry(str(root), key)
    with entry.staging_folder(0o077) as folder:
        Path(folder, "tree").mkdir()
        Path(folder, "tree", "file").write_text("content", encoding="ascii")
    return entry


# -- who may touch it


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_it_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """The folder, its entries and their files."""
    former = os.umask(umask)
    try:
        cache_root.create_root(str(tmp_path / "root"))
        entry = filled(tmp_path / "root")
    finally:
        os.umask(former)
    modes = [stat.S_IMODE(Path(path).stat().st_mode) for path in (tmp_path / "root", entry.path)]
    assert modes == [0o700, 0o700]
    assert stat.S_IMODE(Path(entry.tree, "file").stat().st_mode) == 0o600
    assert entry.ensure_trusted(print) is None


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_root_that_others_may_write_to_is_not_run_from(root: Path, mode: int) -> None:
    """Not even a sticky one: the next entry could be any user's."""
    entry = filled(root)
    root.chmod(mode)
    with pytest.raises(StartError, match=r"others may write to .*root.*is not run"):
        entry.ensure_trusted(print)


def test_a_parent_that_others_may_write_to_is_refused_unless_sticky(root: Path) -> None:
    """They could put another folder in its place."""
    entry = filled(root)
    root.parent.chmod(0o777)
    assert trust.reason_untrusted(entry.path) == f"others may write to {root.parent}"
    root.parent.chmod(0o1777)
    assert trust.reason_untrusted(entry.path) == ""


@is_root
@pytest.mark.parametrize("whose", ["root", "entry"])
def test_what_belongs_to_another_user_is_not_run(root: Path, whose: str) -> None:
    """A planted cache: root would run it, too."""
    entry = filled(root)
    os.chown(root if whose == "root" else entry.path, 12345, 12345)
    with pytest.raises(StartError, match="belongs to user 12345"):
        entry.ensure_trusted(print)


def test_a_link_to_a_folder_of_mine_is_followed(root: Path, tmp_path: Path) -> None:
    """A cache on a larger disk; what counts is where it leads."""
    link = tmp_path / "link"
    link.symlink_to(root)
    filled(root)
    assert Entry(str(link), KEY).ensure_trusted(print) is None


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_bytecode_that_others_could_write_is_removed(root: Path, mode: int) -> None:
    """As Python makes it under a loose umask, in a tree that others may enter."""
    entry = filled(root)
    planted = Path(entry.tree, "package", "__pycache__")
    planted.mkdir(parents=True)
    (planted / "evil.pyc").write_bytes(b"")
    planted.chmod(mode)
    logged: list[str] = []
    entry.ensure_trusted(logged.append)
    assert (planted.exists(), logged) == (True, [])  # no other user gets there
    for path in (root, Path(entry.path)):
        path.chmod(0o755)
    entry.ensure_trusted(logged.append)
    said = f"others may write to {planted}: removed, it holds bytecode alone"
    assert (planted.exists(), logged) == (False, [said])
    assert Path(entry.tree, "file").exists()


def test_a_folder_of_code_that_others_may_write_to_is_not_run_from(root: Path) -> None:
    """It cannot be told what they put there."""
    entry = filled(root)
    package = Path(entry.tree, "package")
    package.mkdir()
    for path, mode in ((root, 0o755), (Path(entry.path), 0o755), (package, 0o777)):
        path.chmod(mode)
    with pytest.raises(StartError, match=f"others may write to {package}, so .* is not run"):
        entry.ensure_trusted(print)
    assert package.exists()


# -- what goes wrong


def test_an_entry_appears_in_one_step(root: Path) -> None:
    """While it is being filled it is not seen."""
    entry = Entry(str(root), KEY)
    with entry.staging_folder(0o077) as folder:
        assert not entry.is_complete
        Path(folder, "tree").mkdir()
    assert entry.is_complete
    assert [path.name for path in root.iterdir() if ".tmp-" in path.name] == []


def test_a_failure_leaves_nothing_behind(root: Path) -> None:
    """No entry, no temporary folder."""
    entry = Entry(str(root), KEY)
    with pytest.raises(OSError, match="No space"), entry.staging_folder(0o077):
        raise OSError(28, "No space left on device")
    assert sorted(path.name for path in root.iterdir()) == ["CACHEDIR.TAG"]
    assert not entry.is_complete


def test_leftovers_of_a_killed_start_are_removed_and_never_used(root: Path) -> None:
    """Shiv merges them into the new cache; code that another user put there would run."""
    old = root / f"{KEY}.tmp-abc" / "tree"
    old.mkdir(parents=True)
    (old / "evil.pth").write_text("import evil", encoding="ascii")
    other = root / "ffffffffffffffffffff.tmp-x"
    other.mkdir()
    entry = filled(root)
    assert sorted(path.name for path in Path(entry.tree).iterdir()) == ["file"]
    assert not old.exists()
    assert other.exists()  # another process may be filling that one


def test_one_fills_and_the_other_waits_and_says_so(root: Path) -> None:
    """The second start logs why nothing happens, then has the entry."""
    first, second = Entry(str(root), KEY), Entry(str(root), KEY)
    logged: list[str] = []
    waiting = threading.Event()

    def log(text: str) -> None:
        logged.append(text)
        waiting.set()

    def wait() -> None:
        with second.lock_to_unpack(log) as is_missing:
            assert not is_missing

    with first.lock_to_unpack(logged.append) as is_missing:
        assert is_missing
        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(60)
        with first.staging_folder(0o077):
            pass
    thread.join(60)
    assert not thread.is_alive()
    assert logged == [f"another process is unpacking to {first.path}; waiting for it"]


def test_an_entry_that_another_process_runs_from_is_not_waited_for(root: Path) -> None:
    """The first of two that start together has it as long as it lives."""
    first, second = filled(root), Entry(str(root), KEY)
    assert first.lock_shared()

    def start() -> None:
        with second.lock_to_unpack(pytest.fail) as is_missing:
            assert not is_missing
        assert second.lock_shared()

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_an_entry_that_may_be_torn_is_known(root: Path) -> None:
    """The machine went down before the disk had everything: another boot, no durable mark."""
    entry = filled(root)
    assert not entry.may_be_torn
    made = Path(entry.path, "made")
    made.write_text("boot 00000000-0000-0000-0000-000000000000\n", encoding="ascii")
    assert entry.may_be_torn
    entry.mark_durable()
    assert not entry.may_be_torn


# -- old entries


def aged(root: Path, days: float, number: int) -> Entry:
    """Make an entry that was last used `days` ago."""
    entry = filled(root, f"{number:020}")
    assert entry.lock_shared()
    entry.unlock()
    then = time.time() - days * 86400
    os.utime(f"{entry.path}.lock", (then, then))
    return entry


def test_old_entries_go_but_the_newest_two_stay(root: Path) -> None:
    """Whatever their age: a machine that is started twice a year does not unpack each time."""
    made = [aged(root, days, number) for number, days in enumerate((100, 50, 90, 29, 40))]
    assert {entry.key for entry in cache.prune(str(root))} == {
        made[0].key,
        made[2].key,
        made[1].key,
    }
    assert [entry.key for entry in cache.entries(str(root))] == [made[3].key, made[4].key]


def test_an_entry_in_use_is_kept_whatever_its_age(root: Path) -> None:
    """Another process has its lock."""
    entry = aged(root, 100, 1)
    command = [sys.executable, "-c", LOCK_SHARED, str(root), entry.key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"True\n"
        assert cache.prune(str(root), days=0, keep=0) == []
        assert entry.is_complete
        holder.communicate()
    assert [one.key for one in cache.prune(str(root), days=0, keep=0)] == [entry.key]
    assert not entry.is_complete


def test_to_start_from_an_entry_makes_it_new_again(root: Path) -> None:
    """Its lock's time is when it was last used."""
    entry = aged(root, 100, 1)
    assert time.time() - entry.last_used > 99 * 86400
    assert entry.lock_shared()
    assert time.time() - entry.last_used < 60


def test_backups_leave_it_out(root: Path) -> None:
    """By the tag that backup programs look for."""
    tag = (root / "CACHEDIR.TAG").read_text(encoding="ascii")
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


def test_the_size_counts_a_file_with_two_names_once(root: Path) -> None:
    """What the disk has, not what names say."""
    entry = filled(root)
    big = Path(entry.tree, "big")
    big.write_bytes(b"x" * 1_000_000)
    os.link(big, Path(entry.tree, "again"))
    assert 1_000_000 <= cache.disk_usage(entry) < 1_100_000
