"""Provoke every refusal of a file with libraries: one line, exit 3, and nothing was written."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuwa_min.bundle.host import HostInfo
from tests.support.installation import NAME, Installation
from tests.support.pythons import python_of
from tests.support.stub_build import (
    HERE,
    Done,
    another_user,
    below,
    built,
    mounting,
    public_python,
    read_only,
    start,
    with_needs,
)

pytestmark = pytest.mark.slow
NEWER, OLDER = ("3.10", "3.11", "3.12", "3.13", "3.14"), ("2.7", "3.6", "3.7", "3.8", "3.9")
REMEDY = "name a folder by --root DIR or KUWA_MIN_ROOT, of your own, on a disk with 2.2 MB free"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the file once."""
    return built(tmp_path_factory.mktemp("built"))


@pytest.fixture
def installed(whole: Path, tmp_path: Path) -> Installation:
    """Put a copy of the file in a place of its own."""
    return Installation(tmp_path, whole)


@pytest.fixture
def public(whole: Path) -> Iterator[Installation]:
    """Put a copy of the file where other users can read it and none but root can write."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Installation(Path(folder), whole)


def refused(*lines: str) -> Done:
    """Return how a start ends that is refused for these reasons."""
    return Done(3, "", "".join(f"{NAME}: error: {line}\n" for line in lines))


def nowhere(*reasons: str) -> Done:
    """Return how a start ends that finds no place for its libraries."""
    return refused(f"nowhere to unpack to: {'; '.join(reasons)}; {REMEDY}")


def test_a_good_machine_runs_it(installed: Installation) -> None:
    """Otherwise the refusals below would prove nothing."""
    done = installed.run()
    assert (done.code, done.out) == (0, installed.ran_from(installed.home / ".cache" / "kuwa"))
    assert not installed.is_untouched


# -- the Python


@pytest.mark.parametrize("minor", NEWER)
@pytest.mark.parametrize("words", ["probe.py", "huggingface --model_path missing"])
def test_another_minor_is_refused(installed: Installation, minor: str, words: str) -> None:
    """What it could start it could not import."""
    if minor == HERE:
        pytest.skip("this is the Python that the file is for")
    done = installed.start(*words.split(), python=python_of(minor), cwd=installed.place)
    found = re.search(r"this is (Python \S+, at \S+);", done.err)
    assert found
    assert found[1].startswith(f"Python {minor}.")
    assert done == refused(f"needs Python {HERE}; this is {found[1]}; start it with python{HERE}")
    assert installed.is_untouched


@pytest.mark.parametrize("minor", NEWER)
def test_another_minor_runs_what_needs_no_libraries(installed: Installation, minor: str) -> None:
    """It can say what it is, and --check says that it does not fit."""
    python = python_of(minor)
    oldest = ("--help", "--version", "debug --help") if minor == NEWER[0] else ()
    for words in ("--list", "huggingface --help", *oldest):
        done = installed.start(*words.split(), python=python)
        assert (done.code, done.err) == (0, "")
    assert installed.start("--check", python=python).code == (0 if minor == HERE else 3)
    assert installed.is_untouched


@pytest.mark.parametrize("minor", OLDER)
@pytest.mark.parametrize("words", ["probe.py", "huggingface", "--list"])
def test_a_python_from_before_3_10_is_refused(
    installed: Installation, minor: str, words: str
) -> None:
    """By a launcher that it can still read."""
    code, out, err = installed.start(words, python=python_of(minor))
    assert (code, out) == (3, "")
    assert re.fullmatch(
        rf"\S+{NAME} needs Python {HERE}; this is Python {minor}\.\d+, at \S+; "
        rf"start it with a newer one, for example: python{HERE} \S+{NAME}\n",
        err,
    )
    assert installed.is_untouched


# -- the machine

MACHINE = HostInfo.detect()
GLIBC = MACHINE.libc.removeprefix("glibc ")
FOR_GLIBC = f"manylinux_{'_'.join(GLIBC.split('.')[:2])}_{MACHINE.machine}"
LACKS = (
    ({"os": "darwin"}, "needs macOS; this is Linux; carry it to a machine with macOS"),
    (
        {"machine": "s390x", "platform": "manylinux_2_28_s390x"},
        f"needs a machine of the kind s390x; this is {MACHINE.machine}; build the file for it "
        f"(--platform manylinux_2_28_{MACHINE.machine})",
    ),
    (
        {"glibc": "2.99"},
        f"needs glibc 2.99 or newer; this system has {GLIBC}; build the file for it "
        f"(--platform {FOR_GLIBC}) or use a newer system",
    ),
    (
        {"libraries": {"libquux.so.7": []}},
        "needs libquux.so.7; it is not here; carry in the package that has libquux.so.7",
    ),
    (
        {"libraries": {"libc.so.6": ["GLIBC_2.2.5", "GLIBC_9.8"]}},
        "needs libc.so.6 with GLIBC_2.2.5, GLIBC_9.8; PATH lacks GLIBC_9.8; use a newer system, or "
        "carry in a newer version of the package that has libc.so.6",
    ),
    (
        {"cpu": ["fpu", "warp9"]},
        "needs a CPU with fpu, warp9; this one lacks warp9; use a newer machine, or build the file "
        "for any (CMAKE_ARGS=-DGGML_NATIVE=OFF)",
    ),
)
is_x86 = pytest.mark.skipif(MACHINE.machine != "x86_64", reason="the table is of this machine")


def without_path(text: str) -> str:
    """Take out where the system has its C library."""
    return re.sub(r"/\S*/libc\.so\.6", "PATH", text)


@is_x86
@pytest.mark.parametrize(
    ("needs", "line"), LACKS, ids=["os", "kind", "glibc", "so", "symbol", "cpu"]
)
def test_a_machine_that_lacks_something_is_refused(
    installed: Installation, needs: dict[str, object], line: str
) -> None:
    """With what is needed, what is here and what to do; --check says the same."""
    with_needs(installed.file, installed.file, **needs)
    done = installed.run()
    assert done._replace(err=without_path(done.err)) == refused(line)
    checked = installed.start("--check")
    assert f"refusal: {line}\n" in without_path(checked.out)
    assert checked.code == 3
    assert installed.is_untouched
    assert installed.start("--list").code == 0


@is_x86
def test_every_reason_has_a_line(installed: Installation) -> None:
    """Who carries things in wants to go once."""
    reasons = LACKS[3], LACKS[5]
    with_needs(
        installed.file,
        installed.file,
        **{key: value for needs, _ in reasons for key, value in needs.items()},
    )
    assert installed.run() == refused(*(line for _, line in reasons))


def test_a_missing_nvidia_driver_is_no_reason_to_refuse(installed: Installation) -> None:
    """The CPU does it, if it is asked to."""
    with_needs(installed.file, installed.file, cuda="13.0", driver="999.65")
    assert (
        "warning: needs NVIDIA driver 999.65 or newer for CUDA 13.0; "
        in installed.start("--check").out
    )
    assert installed.run().code == 0


# -- the disk

TMPFS = "mount -t tmpfs -o {} none {}"
POOR = (
    ("size=1m", "2.2 MB are needed and 1.0 MB are free at {}"),
    ("nr_inodes=10", "N inodes are needed and 9 are free at {}"),
    ("noexec", "{} is mounted noexec: no library can be loaded from it"),
    ("ro", "{} cannot be written to"),
)
on_each = pytest.mark.parametrize(("options", "reason"), POOR, ids=[one for one, _ in POOR])


def uncounted(done: Done) -> Done:
    """Take out how many inodes are needed: files, folders and what else there is."""
    return done._replace(
        out=re.sub(r"\d+ inodes are", "N inodes are", done.out),
        err=re.sub(r"\d+ inodes are", "N inodes are", done.err),
    )


@on_each
@pytest.mark.parametrize("way", ["variable", "option"])
def test_a_poor_place_that_was_asked_for_is_refused(
    installed: Installation, tmp_path: Path, options: str, reason: str, way: str
) -> None:
    """And no other one is taken instead."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words, variables = (
        (["--root", disk / "root"], {})
        if way == "option"
        else ([], {"KUWA_MIN_ROOT": disk / "root"})
    )
    script = f"{TMPFS.format(options, disk)}; trap 'find {disk} -mindepth 1' EXIT"
    done = uncounted(installed.mounted(script, *words, **variables))
    assert done == nowhere(reason.format(disk))
    assert installed.is_untouched


@on_each
def test_a_poor_home_makes_it_unpack_beside_the_file(
    installed: Installation, options: str, reason: str
) -> None:
    """The next place, without a fuss."""
    done = installed.mounted(
        f"{TMPFS.format(options, installed.home)}; trap 'find {installed.home} -mindepth 1' EXIT"
    )
    assert (done.code, done.out) == (0, installed.ran_from(installed.place / ".kuwa"))


@on_each
def test_no_place_at_all_is_one_line_with_all_reasons(
    installed: Installation, options: str, reason: str
) -> None:
    """Both are named; --check names them too."""
    script = (
        f"{TMPFS.format(options, installed.home)}; {read_only(installed.place)}; "
        f"trap 'find {installed.home} -mindepth 1' EXIT"
    )
    reasons = reason.format(installed.home), f"{installed.place} cannot be written to"
    assert uncounted(installed.mounted(script)) == nowhere(*reasons)
    checked = start(
        *mounting(f'{script}\n"$@"', sys.executable, installed.file, "--check"), HOME=installed.home
    )
    assert checked.code == 3
    assert [
        line for line in uncounted(checked).out.splitlines() if not line.startswith("good: needs ")
    ] == [f"warning: no place: {one}" for one in reasons]
    assert installed.is_untouched


def test_folders_count_as_inodes(installed: Installation, tmp_path: Path) -> None:
    """A disk that has one for each file alone is too small; it is said before, not in the midst."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = installed.mounted(TMPFS.format("nr_inodes=31", disk), "--root", disk / "root")
    assert uncounted(done) == nowhere(f"N inodes are needed and 30 are free at {disk}")


# -- the home


def test_an_empty_home_means_beside_the_file(installed: Installation) -> None:
    """Not /.cache."""
    assert installed.run(HOME="").out == installed.ran_from(installed.place / ".kuwa")


def test_a_user_without_home_and_name_unpacks_beside_the_file(public: Installation) -> None:
    """As in a container that runs with a made-up number."""
    command = another_user(public_python(), public.file, public.probe)
    os.chown(public.place, 54321, 54321)
    done = start(*command)
    assert (done.code, done.out) == (0, public.ran_from(public.place / ".kuwa"))


def test_a_user_who_may_write_nowhere_is_told_all_reasons(public: Installation) -> None:
    """HOME is root's, and so is the folder of the file."""
    command = another_user(public_python(), public.file, public.probe)
    expected = nowhere(*(f"{one} cannot be written to" for one in (public.home, public.place)))
    assert start(*command, HOME=public.home) == expected
    assert start(*command) == nowhere(f"{public.place} cannot be written to")
    assert public.is_untouched


# -- a root that is not ours alone


def in_the_way(root: Path) -> str:
    """Put a file where the root should be."""
    root.write_text("", encoding="ascii")
    return f"{root} is not a folder"


def of_all(root: Path) -> str:
    """Make it writable for every user."""
    root.mkdir()
    root.chmod(0o777)
    return f"others may write to {root}; what others could change is not run"


def of_the_group(root: Path) -> str:
    """Let a group write to it."""
    root.mkdir()
    root.chmod(0o770)
    return f"others may write to {root}; what others could change is not run"


def below_one_of_all(root: Path) -> str:
    """Make its folder writable for every user."""
    root.mkdir()
    root.parent.chmod(0o777)
    return f"others may write to {root.parent}; what others could change is not run"


def of_another(root: Path) -> str:
    """Give it to another user."""
    root.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can give files to others")
    os.chown(root, 12345, 12345)
    return f"{root} belongs to user 12345; what others could change is not run"


def a_link_to_one_of_another(root: Path) -> str:
    """Lead to another user's folder."""
    elsewhere = root.with_name("elsewhere")
    reason = of_another(elsewhere)
    root.symlink_to(elsewhere)
    return reason


SPOILERS = (
    in_the_way,
    of_all,
    of_the_group,
    below_one_of_all,
    of_another,
    a_link_to_one_of_another,
)


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("way", ["variable", "option"])
def test_an_unsafe_root_that_was_asked_for_is_refused(
    installed: Installation, tmp_path: Path, spoil: object, way: str
) -> None:
    """And no other one is taken instead."""
    root = tmp_path / "parent" / "root"
    root.parent.mkdir()
    reason = spoil(root)  # type: ignore[operator]
    words = ["--root", root] if way == "option" else []
    assert installed.run(*words, **({} if words else {"KUWA_MIN_ROOT": root})) == nowhere(reason)
    assert installed.is_untouched


@pytest.mark.parametrize(
    "spoil", SPOILERS[:1] + SPOILERS[1:3] + SPOILERS[4:], ids=lambda one: one.__name__
)
def test_an_unsafe_cache_at_home_makes_it_unpack_beside_the_file(
    installed: Installation, spoil: object
) -> None:
    """Its content may have been planted by another user."""
    root = installed.home / ".cache" / "kuwa"
    root.parent.mkdir()
    spoil(root)  # type: ignore[operator]
    before = below(installed.home)
    done = installed.run()
    assert (done.code, done.out) == (0, installed.ran_from(installed.place / ".kuwa"))
    assert below(installed.home) == before


def planted(root: Path, key: str) -> Path:
    """Make a cache whose torch would tell that it ran."""
    tree = root / key / "tree"
    (tree / "torch").mkdir(parents=True)
    (tree / "torch" / "__init__.py").write_text("NAME = 'planted'\n", encoding="ascii")
    (tree / "evil.pth").write_text("import sys; print('planted')\n", encoding="ascii")
    for name in ("made", "durable"):
        (root / key / name).write_text("boot -\n", encoding="ascii")
    return root / key


def by_another(path: Path) -> str:
    """Give a folder to another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files to others")
    os.chown(path, 12345, 12345)
    return f"{path} belongs to user 12345"


def open_to_all(path: Path) -> str:
    """Make a folder writable for every user."""
    path.chmod(0o777)
    return f"others may write to {path}"


@pytest.mark.parametrize("part", ["root", "entry"])
@pytest.mark.parametrize("spoil", [by_another, open_to_all], ids=lambda one: one.__name__)
def test_code_of_others_never_runs(installed: Installation, part: str, spoil: object) -> None:
    """Whether the whole cache or one entry is theirs; root would run it, too."""
    root = installed.home / ".cache" / "kuwa"
    entry = planted(root, installed.key)
    reason = spoil(root if part == "root" else entry)  # type: ignore[operator]
    done = installed.run()
    assert "planted" not in done.out
    assert f"{reason}, so what lies in {entry} is not run: remove it, or name a folder" in done.err
    assert done.out in ("", installed.ran_from(installed.place / ".kuwa"))


@pytest.mark.parametrize("part", ["root", "entry"])
def test_planted_code_in_a_root_that_was_asked_for_ends_the_start(
    installed: Installation, tmp_path: Path, part: str
) -> None:
    """In one line."""
    root = tmp_path / "root"
    entry = planted(root, installed.key)
    reason = by_another(root if part == "root" else entry)
    line = f"{reason}, so what lies in {entry} is not run: remove it, or name a folder of your own"
    code, out, err = installed.run(KUWA_MIN_ROOT=root)
    assert (code, out, err) == (1, "", f"{NAME}: error: {line} by --root DIR\n")
    assert installed.is_untouched


def test_planted_left_overs_of_a_killed_start_never_run(installed: Installation) -> None:
    """The bootstrap of shiv merges them into the new cache."""
    root = installed.home / ".cache" / "kuwa"
    planted(root, f"{installed.key}.tmp-abc")
    root.chmod(0o700)
    assert installed.run().out == installed.ran_from(root)
    assert sorted(path.name for path in root.iterdir()) == [
        installed.key, f"{installed.key}.lock", "CACHEDIR.TAG",
    ]  # fmt: skip
    assert "evil.pth" not in below(root / installed.key / "tree")


# -- the command line


def test_root_needs_a_folder(installed: Installation) -> None:
    """Who types it and no more does not want the default."""
    for words in (["--root"], ["--root="]):
        done = installed.run(*words)
        assert (done.code, done.out) == (2, "")
        assert len(done.err.splitlines()) == 1
        assert "--root" in done.err
    assert installed.is_untouched


def test_check_says_everything_and_writes_nothing(installed: Installation) -> None:
    """With exit code 0 where all is well."""
    version = ".".join(map(str, sys.version_info[:3]))
    lines = [
        f"good: needs Python {HERE}; this is Python {version}, at {sys.executable}",
        "good: needs Linux; this is Linux",
        f"good: needs a machine of the kind {MACHINE.machine}; this is {MACHINE.machine}",
        f"good: can unpack to {installed.home}/.cache/kuwa",
        f"good: can unpack to {installed.place}/.kuwa",
        "",
    ]
    assert installed.start("--check") == Done(0, "\n".join(lines), "")
    assert installed.start("huggingface", "--check") == Done(0, "\n".join(lines), "")
    assert installed.is_untouched


def test_check_ends_with_3_where_it_cannot_run(installed: Installation, tmp_path: Path) -> None:
    """The reasons on standard output, the verdict on standard error."""
    reason = in_the_way(tmp_path / "root")
    done = installed.start("--check", KUWA_MIN_ROOT=tmp_path / "root")
    assert done.code == 3
    assert done.out.splitlines()[-1] == f"warning: no place: {reason}"
    verdict = "this file cannot run here; the lines above say why and what to do"
    assert done.err == f"{NAME}: error: {verdict}\n"
    assert installed.is_untouched


@pytest.mark.parametrize(
    "words", ["--help", "--list", "--version", "--info", "--sbom", "--licenses", "cache", "verify",
    "huggingface --help", "debug --help", "dummy --help", "kernel --help", "unpack --help"],
)  # fmt: skip
def test_what_needs_no_libraries_writes_nothing(installed: Installation, words: str) -> None:
    """Not even the folder of the cache."""
    done = installed.start(*words.split())
    assert (done.code, done.err) == (0, "")
    assert installed.is_untouched


UNWRITABLE = ("/proc/kuwa", "/dev/null/kuwa", "/dev/null")


@pytest.mark.parametrize("folder", UNWRITABLE)
def test_unpack_to_an_impossible_folder_is_one_line(installed: Installation, folder: str) -> None:
    """No traceback."""
    done = installed.start("unpack", folder)
    assert done.code in (1, 3)
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert folder.removesuffix("/kuwa") in done.err


@pytest.mark.parametrize(("options", "reason"), POOR[:2] + POOR[3:], ids=["size", "inodes", "ro"])
def test_unpack_to_a_poor_disk_is_one_line_and_leaves_nothing(
    installed: Installation, tmp_path: Path, options: str, reason: str
) -> None:
    """Before anything is written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"{TMPFS.format(options, disk)}; trap 'find {disk} -mindepth 1' EXIT"
    command = mounting(f'{script}\n"$@"', sys.executable, installed.file, "unpack", disk / "root")
    done = start(*command, HOME=installed.home)
    assert done.code in (1, 3)
    assert [line for line in done.out.splitlines() if "/tree" in line or ".tmp-" in line] == []
    assert sum("error: " in line for line in done.err.splitlines()) == 1
