"""Live through what happens to libraries that are unpacked: crashes, crowds, damage, renames."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuwa_min.bundle.archive import Archive
from kuwa_min.launch import EARLY, bytecode_name
from tests.support.installation import NAME, Installation
from tests.support.programs import Program, fetch, said, until
from tests.support.stub_build import (
    EXTRA,
    PROBE,
    Done,
    another_user,
    below,
    build,
    built,
    bulk,
    mounting,
    public_python,
    read_only,
    start,
    write_model,
)

pytestmark = pytest.mark.slow
TENTH = re.compile(r"^unpacking libraries: (\d+) %$", re.MULTILINE)
DAY = 86400
TRIES = 5
SERVER = """
from kuwa.executor import LLMExecutor

class Said(LLMExecutor):
    async def llm_compute(self, history, modelfile):
        import torch
        yield torch.NAME
"""
CHILD = """
import subprocess, sys
code = "import torch, sys; print(torch.__file__)"
subprocess.run([sys.executable, "-c", code])
sys.exit(0)
"""
HOSTS = "import only_on_the_host\n"


@pytest.fixture(autouse=True)
def no_root_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of who runs the tests say where the cache is."""
    for name in ("KUWA_MIN_ROOT", "XDG_CACHE_HOME", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a file that is unpacked at once; its tokenizers want a module that it lacks."""
    hungry = {
        name: {f"{name}/__init__.py": HOSTS.encode()} for name in ("tokenizers", "accelerate")
    }
    transformers = {**EXTRA["transformers"], "transformers/__init__.py": HOSTS.encode()}
    extra = {**EXTRA, **hungry, "transformers": transformers}
    return built(tmp_path_factory.mktemp("small"), extra=extra)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a file whose unpacking can be interrupted."""
    return built(tmp_path_factory.mktemp("large"), extra=bulk())


@pytest.fixture
def installed(small: Path, tmp_path: Path) -> Installation:
    """Put a copy of the small file in a place of its own."""
    return Installation(tmp_path, small)


@pytest.fixture
def big(large: Path, tmp_path: Path) -> Installation:
    """Put a copy of the large file in a place of its own."""
    return Installation(tmp_path, large)


def children(pid: int) -> list[int]:
    """Return the processes that this one has started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    with contextlib.suppress(OSError):
        return [int(word) for word in path.read_text(encoding="ascii").split()]
    return []


def state(pid: int) -> str:
    """Return what a process does, as the letter of the system: R runs, S sleeps; Z: it is over."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    return "Z"


def is_over(pid: int) -> bool:
    """Tell whether a process has ended, or waits for nothing but its parent to notice."""
    return state(pid) == "Z"


class Halted:
    """A start that is stopped in the midst of unpacking, with all its processes."""

    def __init__(self, program: Program, root: Path) -> None:
        self.main = program.process.pid
        until(lambda: list(root.glob("*.tmp-*/tree/torch/*/*")))
        os.kill(self.main, signal.SIGSTOP)
        self.workers = children(self.main)
        for pid in self.workers:
            os.kill(pid, signal.SIGSTOP)
        assert list(root.glob("*.tmp-*/tree")), "it was too fast for this test: make it larger"

    @property
    def all(self) -> list[int]:
        """Return its processes, the one that was started first."""
        return [self.main, *self.workers]

    def go_on(self) -> None:
        """Let all that is left of it go on."""
        for pid in self.all:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def halted(
    installed: Installation, *words: object, root: Path | None = None
) -> Iterator[tuple[Program, Halted]]:
    """Start the file, stop it while it unpacks, and give both; nothing of it lives on after."""
    with installed.program(*(words or (installed.probe,))) as program:
        halt = Halted(program, root or installed.root)
        try:
            yield program, halt
        finally:
            for pid in halt.workers:
                if not is_over(pid):
                    os.kill(pid, signal.SIGKILL)


# -- the first start and the next


def test_the_first_start_unpacks_and_the_next_one_does_not(installed: Installation) -> None:
    """Two lines, then silence; only the owner may read the files."""
    first, second = installed.run(), installed.run()
    assert (first.code, first.out, second) == (0, installed.ran, Done(0, installed.ran, ""))
    announced, end = first.err.splitlines(keepends=True)
    assert announced == installed.unpacked()
    assert re.fullmatch(rf"{NAME}: unpacked in \d\.\d s\n", end)
    assert installed.left_overs() == []


def test_an_executor_of_ones_own_has_the_libraries(installed: Installation) -> None:
    """It imports torch when it is asked something."""
    (installed.place / "said.py").write_text(SERVER, encoding="ascii")
    options = ("--access_code", "said", "--ignore_kernel", "--host", "127.0.0.1")
    with installed.program(installed.place / "said.py", *options) as program:
        assert fetch(program.url, said("hi")) == (200, "torch")
        program.process.terminate()
        assert program.end() == 0


def test_a_backend_ends_in_one_line_when_its_model_is_missing(installed: Installation) -> None:
    """No traceback; the libraries were unpacked before."""
    done = installed.start("huggingface", "--model_path", installed.place / "missing")
    assert (done.code in (1, 2), done.out) == (True, "")
    assert len(done.err.splitlines()) == 3
    assert done.err.splitlines()[2].startswith(f"{NAME} huggingface: error: ")
    assert installed.tree.is_dir()


def test_what_needs_no_libraries_is_started_without_unpacking(installed: Installation) -> None:
    """Such as the backends of the core."""
    options = ("debug", "--ignore_kernel", "--host", "127.0.0.1")
    with installed.program(*options) as program:
        assert fetch(program.url, said("hi")) == (200, "hi")
        program.process.terminate()
        assert program.end() == 0
    assert below(installed.home) == []


def test_a_renamed_file_and_a_new_core_reuse_what_is_unpacked(
    installed: Installation, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the libraries count."""
    assert installed.run().out == installed.ran
    renamed = installed.file.rename(installed.place / "executor")
    assert start(sys.executable, renamed, installed.probe, HOME=installed.home) == Done(
        0, installed.ran, ""
    )
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    done = build(installed.place / "again", small.parent.parent / "wheels")
    assert done.returncode == 0, done.stderr
    again = installed.place / "again" / NAME
    assert again.read_bytes() != renamed.read_bytes()
    assert start(sys.executable, again, installed.probe, HOME=installed.home) == Done(
        0, installed.ran, ""
    )


@pytest.mark.parametrize("value", ["", "1"])
def test_whether_python_writes_bytecode_does_not_matter(
    installed: Installation, value: str
) -> None:
    """The files are checked, not what is beside them."""
    for _ in range(2):
        assert installed.run(PYTHONDONTWRITEBYTECODE=value).out == installed.ran
    assert installed.start("verify").out.splitlines()[1].endswith(" files, whole")
    assert bool(list(installed.tree.rglob("*.pyc"))) is not bool(value)


def test_it_needs_no_network(installed: Installation) -> None:
    """Not even a loopback interface that is up."""
    command = ["unshare", "--net", "true"]
    if os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("only root may leave the network, where the container allows it")
    done = start(*command[:2], sys.executable, installed.file, installed.probe, HOME=installed.home)
    assert (done.code, done.out) == (0, installed.ran)


# -- where modules come from


def test_a_stray_module_does_not_win_over_the_libraries(installed: Installation) -> None:
    """A torch.py on PYTHONPATH."""
    stray = installed.place / "stray"
    stray.mkdir()
    (stray / "torch.py").write_text("NAME = 'stray'", encoding="ascii")
    for _ in range(2):
        assert installed.run(PYTHONPATH=stray).out == installed.ran


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a Python that has a torch of its own, and a module that the file lacks."""
    folder = tmp_path_factory.mktemp("host")
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "torch.py").write_text("NAME = 'of the host'", encoding="ascii")
    (packages / "only_on_the_host.py").write_text("", encoding="ascii")
    return folder / "bin" / "python"


def test_the_libraries_win_over_those_of_the_host(installed: Installation, host: Path) -> None:
    """An executor of one's own may import what else the host has."""
    installed.probe.write_text(HOSTS + PROBE, encoding="ascii")
    done = start(host, installed.file, installed.probe, HOME=installed.home)
    assert (done.code, done.out) == (0, installed.ran)


def test_a_backend_sees_nothing_of_the_hosts_packages(installed: Installation, host: Path) -> None:
    """Libraries from two places would be an error that is hard to find."""
    model = write_model(installed.place / "model")
    done = start(host, installed.file, "huggingface", "--model_path", model, HOME=installed.home)
    assert done.code == 1
    assert "No module named 'only_on_the_host'" in done.err


def test_children_see_the_libraries(installed: Installation) -> None:
    """A compiler of torch starts some."""
    installed.probe.write_text(CHILD, encoding="ascii")
    assert installed.run().out == f"{installed.tree}/torch/__init__.py\n"


# -- crashes and crowds


def test_a_start_after_kill_9_unpacks_anew(big: Installation) -> None:
    """The workers end by themselves, and what they left is not merged but gone."""
    with halted(big) as (program, halt):
        left = next(big.root.glob("*.tmp-*"))
        (left / "tree" / "evil.pth").write_text("import sys; print('merged')\n", encoding="ascii")
        program.process.kill()
        halt.go_on()
        until(lambda: all(is_over(pid) for pid in halt.workers))
    assert not big.tree.exists()
    assert left.exists()
    done = big.run()
    assert (done.code, done.out) == (0, big.ran)
    assert big.left_overs() == []
    assert not (big.tree / "evil.pth").exists()
    assert (
        len([path for path in big.tree.rglob("*") if path.suffix != ".pyc" and path.is_file()])
        == (Archive(str(big.file)).payloads[0]["files"])
    )


def test_a_worker_that_is_killed_fails_the_start(big: Installation) -> None:
    """As a machine without memory does; half a tree is never taken for a whole one."""
    with halted(big) as (program, halt):
        if not halt.workers:
            pytest.skip("with one processor there are no workers")
        os.kill(halt.workers[0], signal.SIGKILL)
        halt.go_on()
        assert program.end() == 1
    assert "Traceback" not in program.log
    assert program.lines[-1].startswith(f"{NAME}: error: ")
    assert not big.tree.exists()
    assert big.left_overs() == []


def test_left_overs_of_another_file_are_cleaned_up(
    installed: Installation, large: Path, tmp_path: Path
) -> None:
    """Whose start was killed, and who never starts again because a newer file came."""
    (tmp_path / "old").mkdir()
    old = Installation(tmp_path / "old", large)
    old.home, old.root = installed.home, installed.root
    with halted(old) as (program, halt):
        program.process.kill()
        halt.go_on()
        until(lambda: all(is_over(pid) for pid in halt.workers))
    assert installed.run().out == installed.ran
    assert installed.start("cache", "--clean").code == 0
    assert [name for name in below(installed.root) if ".tmp-" in name] == []


def test_a_folder_that_is_being_filled_is_not_cleaned_up(
    installed: Installation, large: Path, tmp_path: Path
) -> None:
    """Another file's first start goes on."""
    (tmp_path / "other").mkdir()
    other = Installation(tmp_path / "other", large)
    other.home, other.root = installed.home, installed.root
    with halted(other) as (program, halt):
        assert installed.run().out == installed.ran
        assert installed.start("cache", "--clean").code == 0
        halt.go_on()
        assert program.end() == 0
        assert program.lines[-1] == other.ran_from(installed.root)


@pytest.mark.parametrize("words", ["probe.py", "unpack", "huggingface"])
def test_ctrl_c_while_it_unpacks_leaves_nothing(big: Installation, words: str) -> None:
    """Exit code 130 and no traceback."""
    root = big.place / "root" if words == "unpack" else big.root
    options = {"probe.py": [big.probe], "unpack": ["unpack", root], "huggingface": ["huggingface"]}
    with halted(big, *options[words], root=root) as (program, halt):
        for pid in halt.all:  # a terminal sends it to all of them
            os.kill(pid, signal.SIGINT)
        halt.go_on()
        assert program.end() == 130
        assert all(is_over(pid) for pid in halt.workers)
    assert [line for line in program.lines if not TENTH.match(line)] == [
        big.unpacked(root).replace("82.1", f"{82.1:.0f}")
    ]
    assert sorted(path.name for path in root.iterdir() if path.name != "CACHEDIR.TAG") == [
        f"{big.key}.lock"
    ]


def test_ctrl_c_while_it_verifies_is_no_traceback(installed: Installation) -> None:
    """Exit code 130 here, too."""
    installed.run()
    data = installed.tree / "torch" / "data.bin"
    data.unlink()
    os.mkfifo(data)  # a read of it blocks for ever
    writers: list[int] = []

    def has_a_reader() -> bool:
        with contextlib.suppress(OSError):
            writers.append(os.open(data, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    with installed.program("verify") as program:
        until(has_a_reader)  # which woke it: a signal before it reads would be seen after that
        until(lambda: state(program.process.pid) == "S")
        program.process.send_signal(signal.SIGINT)
        assert program.end() == 130
    os.close(writers[0])
    assert "Traceback" not in program.log


def test_sigterm_while_it_unpacks_leaves_nothing(big: Installation) -> None:
    """A service manager stops it: nothing is left, at the latest after the next start."""
    with halted(big) as (program, halt):
        program.process.terminate()
        halt.go_on()
        assert program.end() in (143, -signal.SIGTERM)
        until(lambda: all(is_over(pid) for pid in halt.workers))
    assert "Traceback" not in program.log
    assert not big.tree.exists()
    assert big.left_overs() == []
    assert big.run().out == big.ran


def test_the_second_start_waits_and_says_so(big: Installation) -> None:
    """Seven who start while the first one unpacks."""
    with halted(big) as (first, halt), contextlib.ExitStack() as stack:
        others = [stack.enter_context(big.program(big.probe)) for _ in range(7)]
        waits = f"{NAME}: another process is unpacking to {big.root}/{big.key}; waiting for it\n"
        for one in others:
            one.wait_for(re.escape(waits))
        halt.go_on()
        assert [one.end() for one in (first, *others)] == [0] * 8
        assert {one.lines[-1] for one in (first, *others)} == {big.ran}
        assert {"".join(one.lines[:-1]).replace(waits, "") for one in others} == {""}
    assert big.left_overs() == []


@pytest.mark.parametrize("attempt", range(5))
def test_of_eight_first_starts_at_once_one_unpacks_and_all_succeed(
    installed: Installation, attempt: int
) -> None:
    """In a home that has no cache folder yet; the loser of a race must not notice."""
    with contextlib.ExitStack() as stack:
        all_of_them = [stack.enter_context(installed.program(installed.probe)) for _ in range(8)]
        assert [one.end() for one in all_of_them] == [0] * 8, [one.log for one in all_of_them]
    assert {one.lines[-1] for one in all_of_them} == {installed.ran}
    assert sum("unpacked in" in one.log for one in all_of_them) == 1
    assert installed.left_overs() == []


# -- disks


def test_a_disk_that_fills_up_while_it_unpacks_is_one_line(
    big: Installation, tmp_path: Path
) -> None:
    """It had room enough when it began; nothing is left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
mount -t tmpfs -o size=200m none {disk}
"$@" & main=$!
until ls {disk}/root/*.tmp-*/tree/torch/*/* >/dev/null 2>&1; do sleep 0.01; done
all="$main $(cat /proc/$main/task/$main/children)"
kill -STOP $all
head -c 300M /dev/zero >{disk}/full 2>/dev/null || true
kill -CONT $all
code=0; wait $main || code=$?
find {disk} -mindepth 1 -printf '%P\\n' | sort
exit $code"""
    command = mounting(script, sys.executable, big.file, big.probe, "--root", disk / "root")
    done = start(*command, HOME=big.home)
    names = ["full", "root", f"root/{big.key}.lock", "root/CACHEDIR.TAG"]
    assert done.code == 1
    assert sorted(done.out.split()) == sorted(names)
    line = f"error: cannot unpack to {disk}/root/{big.key}: No space left on device"
    assert [one for one in done.err.splitlines() if "error" in one] == [f"{NAME}: {line}"]


@pytest.mark.parametrize(("size", "limit"), [("installed", 1_000_000), ("big", 8_000_000)])
def test_a_limit_on_the_size_of_files_is_one_line(
    request: pytest.FixtureRequest, size: str, limit: int
) -> None:
    """Unpacked by the process itself, and by workers."""
    installed: Installation = request.getfixturevalue(size)
    command = ["prlimit", f"--fsize={limit}", sys.executable, installed.file, installed.probe]
    done = start(*command, HOME=installed.home)
    line = f"{NAME}: error: cannot unpack to {installed.root}/{installed.key}: File too large"
    assert (done.code, done.out, done.err.splitlines()[-1]) == (1, "", line)
    assert not installed.tree.exists()
    assert installed.left_overs() == []


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_umask_does_not_matter(installed: Installation, umask: int) -> None:
    """All that is unpacked is for its owner alone."""
    done = start(sys.executable, installed.file, installed.probe, umask=umask, HOME=installed.home)
    assert (done.code, done.out) == (0, installed.ran)
    paths = [path for path in installed.root.rglob("*") if "__pycache__" not in path.parts]
    marks = {"CACHEDIR.TAG", "durable"}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert [name for name, mode in modes.items() if mode & 0o077 and name not in marks] == []
    assert stat.S_IMODE(installed.root.stat().st_mode) == 0o700
    assert installed.run() == Done(0, installed.ran, "")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_root_deep_below_missing_folders_is_made(installed: Installation, umask: int) -> None:
    """None of them may be open to others, or what was unpacked is refused."""
    root = installed.place / "a" / "b" / "c"
    command = (sys.executable, installed.file, installed.probe)
    done = start(*command, umask=umask, HOME=installed.home, KUWA_MIN_ROOT=root)
    assert (done.code, done.out) == (0, installed.ran_from(root))


# -- damage


def flip(file: Path, position: int) -> None:
    """Flip a bit of a file."""
    with file.open("r+b") as raw:
        raw.seek(position)
        byte = raw.read(1)[0]
        raw.seek(position)
        raw.write(bytes([byte ^ 1]))


def damaged(installed: Installation) -> Done:
    """Return how a start ends whose file is damaged."""
    said = (
        f"{installed.file} is damaged: copy it again, and compare with its .sha256 (sha256sum -c)"
    )
    return Done(1, "", f"{NAME}: error: {said}\n")


def test_a_flipped_bit_in_the_payload_is_noticed(installed: Installation) -> None:
    """Before anything of it runs; nothing is left."""
    archive = Archive(str(installed.file))
    payload = archive.payloads[0]
    places = [blob.offset + blob.stored // 2 for blob in archive.index(payload).blobs]
    for place in places[::7]:
        flip(installed.file, archive.start_of(payload) + place)
        done = installed.run()
        assert done == damaged(installed)._replace(
            err=installed.unpacked() + damaged(installed).err
        )
        assert installed.left_overs() == []
        assert not installed.tree.exists()
        assert installed.start("verify") == damaged(installed)
        flip(installed.file, archive.start_of(payload) + place)
    assert installed.run().out == installed.ran


def test_a_flipped_bit_in_the_index_is_noticed(installed: Installation) -> None:
    """By its own sum."""
    archive = Archive(str(installed.file))
    payload = archive.payloads[0]
    flip(installed.file, archive.zip_start - payload["index_position"] + payload["index_size"] // 2)
    assert installed.run().err.endswith(damaged(installed).err)
    assert not installed.tree.exists()
    assert installed.left_overs() == []
    assert installed.start("verify") == damaged(installed)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_bit_in_the_manifest_is_noticed(installed: Installation, share: float) -> None:
    """By the sum of its entry, or because it cannot be inflated."""
    begin, size = entry_of(installed.file, "manifest.json")
    flip(installed.file, begin + int(size * share))
    assert installed.run() == damaged(installed)
    assert below(installed.home) == []
    assert installed.start("verify") == damaged(installed)


def entry_of(file: Path, name: str) -> tuple[int, int]:
    """Return where the stream of a zip's entry begins in the file, and its size."""
    with zipfile.ZipFile(file) as archive:
        entry = archive.getinfo(name)
        return entry.header_offset + 30 + len(name), entry.compress_size


def test_a_flipped_bit_in_the_core_never_passes_for_whole(
    installed: Installation, small: Path
) -> None:
    """Python reads the core before we can; whatever comes of it, no check may report success."""
    shutil.copy(f"{small}.sha256", installed.place)
    whole, begin = installed.file.read_bytes(), Archive(str(installed.file)).zip_start
    good = start(sys.executable, installed.file, "verify", HOME=installed.home)
    assert (good.code, good.out.partition(" ")[0]) == (0, "sha256")
    step = (len(whole) - begin) // 16
    for position in range(begin + step // 2, len(whole), step):
        installed.file.write_bytes(whole)
        flip(installed.file, position)
        command = [sys.executable, str(installed.file), "verify"]
        done = subprocess.run(
            command, env={"HOME": str(installed.home)}, capture_output=True, check=False
        )
        assert done.returncode > 0, (position, done)


@pytest.mark.parametrize("block", [EARLY, "bytecode"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_the_bytecode_is_one_line(
    installed: Installation, share: float, block: str
) -> None:
    """Neither a crash nor a traceback of marshal."""
    begin, size = entry_of(installed.file, bytecode_name(block))
    flip(installed.file, begin + int(size * share))
    done = installed.start("--list")
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1
    assert "is damaged: copy it again" in done.err


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_file_does_not_start(installed: Installation, share: float) -> None:
    """Python finds no program in it."""
    os.truncate(installed.file, int(installed.file.stat().st_size * share))
    done = installed.run()
    assert done.code not in (0, 3)
    assert done.out == ""
    assert below(installed.home) == []


@pytest.mark.parametrize("number", [10, 1000])
def test_bytes_that_are_missing_in_the_midst_are_noticed(
    installed: Installation, number: int
) -> None:
    """The zip at the end is whole, and says that the payload is not."""
    data = installed.file.read_bytes()
    installed.file.write_bytes(data[:5000] + data[5000 + number :])
    done = installed.run()
    assert (done.code, done.out, done.err.splitlines()[-1:]) == (
        1, "", damaged(installed).err.splitlines(),
    )  # fmt: skip
    assert not installed.tree.exists()
    assert installed.start("verify") == damaged(installed)


def test_a_changed_first_line_changes_nothing(installed: Installation) -> None:
    """An administrator who sets the Python need not build again."""
    data = installed.file.read_bytes()
    line = f"#!{sys.executable} -E\n".encode()
    installed.file.write_bytes(line + data.partition(b"\n")[2])
    done = start(installed.file, installed.probe, HOME=installed.home)
    assert (done.code, done.out) == (0, installed.ran)


def test_check_says_where_the_libraries_lie(installed: Installation) -> None:
    """Then no room is needed, and nothing is said of it."""
    installed.run()
    done = installed.start("--check")
    assert done.code == 0
    assert done.out.splitlines()[-1] == f"good: unpacked in {installed.tree.parent}"
    assert "can unpack to" not in done.out


def put_back(installed: Installation, number: int, path: str) -> str:
    """Return what is said of files that were put back."""
    others = f" and {number - 1} others" if number > 1 else ""
    return f"{NAME}: {path}{others} in {installed.tree}: missing or damaged; put back\n"


@pytest.mark.parametrize("name", ["torch", "torch/__init__.py"])
def test_what_was_deleted_is_put_back_when_a_start_fails(
    installed: Installation, name: str
) -> None:
    """The launcher restarts itself once."""
    installed.run()
    gone = installed.tree / name
    number = 3 if gone.is_dir() else 1
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    code, out, err = installed.run()
    assert (code, out) == (0, installed.ran)
    failed, mended, again = err.splitlines(keepends=True)
    assert failed.startswith(f"{NAME}: error: {installed.probe}: ")
    assert mended == put_back(installed, number, "torch/__init__.py")
    assert again == f"{NAME}: starting again\n"
    assert installed.run() == Done(0, installed.ran, "")


def test_a_start_that_fails_for_another_reason_is_not_repeated(installed: Installation) -> None:
    """The libraries are whole."""
    installed.run()
    installed.probe.write_text("print('once', flush=True)\nraise SystemExit(7)\n", encoding="ascii")
    assert installed.run() == Done(7, "once\n", "")


def test_a_start_is_repeated_once_only(installed: Installation) -> None:
    """Even if the files are gone again."""
    installed.run()
    text = (
        f"import os, sys\nos.unlink({str(installed.tree / 'torch' / 'data.bin')!r})\nsys.exit(5)\n"
    )
    installed.probe.write_text(text, encoding="ascii")
    code, out, err = installed.run()
    assert (code, out) == (5, "")
    assert err == f"{put_back(installed, 1, 'torch/data.bin')}{NAME}: starting again\n"


def verified(installed: Installation) -> tuple[int, str]:
    """Return code and what verify says of the tree."""
    done = installed.start("verify")
    return done.code, done.out.splitlines()[-1].removeprefix(f"{installed.root}/{installed.key}: ")


def test_verify_puts_back_what_was_deleted_changed_or_cut(installed: Installation) -> None:
    """It reads every byte."""
    assert verified(installed) == (0, "nothing is unpacked yet")
    installed.run()
    files = Archive(str(installed.file)).payloads[0]["files"]
    assert verified(installed) == (0, f"{files} files, whole")
    (installed.tree / "torch" / "__init__.py").unlink()
    assert verified(installed) == (0, f"{files} files, put back: 1")
    flip(installed.tree / "torch" / "data.bin", 100_000)
    assert verified(installed) == (0, f"{files} files, put back: 1")
    os.truncate(installed.tree / "torch" / "data.bin", 100_000)
    assert verified(installed) == (0, f"{files} files, put back: 1")
    flip(installed.tree / "transformers" / "twin.bin", 7)  # one file with two names
    assert verified(installed) == (0, f"{files} files, put back: 2")
    assert verified(installed) == (0, f"{files} files, whole")
    assert installed.run() == Done(0, installed.ran, "")


def test_what_was_put_back_is_as_private_and_as_executable_as_before(
    installed: Installation,
) -> None:
    """Whatever the umask."""
    installed.run()
    tool = installed.tree / "transformers" / "tool"
    mode = tool.stat().st_mode
    tool.unlink()
    done = start(sys.executable, installed.file, "verify", umask=0, HOME=installed.home)
    assert done.code == 0
    assert (oct(tool.stat().st_mode), tool.read_bytes()) == (oct(mode), b"#!")


def test_a_machine_that_crashed_means_a_check_at_the_next_start(installed: Installation) -> None:
    """The disk may not have had everything: a file may be hollow."""
    installed.run()
    entry = installed.root / installed.key
    (entry / "durable").unlink()
    (entry / "made").write_text("boot 00000000-0000-0000-0000-000000000000\n", encoding="ascii")
    data = installed.tree / "torch" / "data.bin"
    size = data.stat().st_size
    data.write_bytes(bytes(size))
    assert installed.run() == Done(0, installed.ran, put_back(installed, 1, "torch/data.bin"))
    assert any(data.read_bytes())
    assert installed.run() == Done(0, installed.ran, "")


# -- progress


def test_progress_is_a_bar_on_a_terminal(big: Installation) -> None:
    """Drawn over itself, and gone in the end."""
    ours, theirs = pty.openpty()
    command = [sys.executable, str(big.file), str(big.probe)]
    environment = {**os.environ, "HOME": str(big.home)}
    pieces: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while piece := os.read(ours, 4096):
                pieces.append(piece)

    with subprocess.Popen(
        command, stderr=theirs, stdout=subprocess.PIPE, env=environment
    ) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        out = process.communicate(timeout=60)[0]
        reader.join(60)
    os.close(ours)
    text = b"".join(pieces).decode()
    assert (process.returncode, out.decode()) == (0, big.ran)
    bars = re.findall(r"\r\x1b\[Kunpacking libraries \[(#*\.*)\] +(\d+) %, \d+ s left", text)
    assert bars
    assert {len(bar) for bar, _ in bars} == {30}
    shares = [int(share) for _, share in bars]
    assert shares == sorted(shares)
    assert TENTH.search(text) is None
    assert re.search(r"\r\x1b\[Kkuwa-huggingface\.pyz: unpacked in ", text)


def test_progress_is_a_line_per_tenth_in_a_pipe(big: Installation) -> None:
    """Once it has taken a second: shorter steps need no progress."""
    for _ in range(TRIES):
        shutil.rmtree(big.root, ignore_errors=True)
        began = time.monotonic()
        with halted(big) as (program, halt):
            until(lambda began=began: time.monotonic() - began > 2)
            halt.go_on()
            assert program.end() == 0
        tenths = [int(tenth) for tenth in TENTH.findall(program.log)]
        if tenths:  # else it was halted within its last tenth
            break
    assert tenths
    assert tenths == sorted(set(tenths))
    assert set(tenths) <= set(range(10, 101, 10))
    assert "\r" not in program.log
    assert program.lines[-2].startswith(f"{NAME}: unpacked in ")


# -- what becomes of the cache


def aged(root: Path, name: str, days: float) -> Path:
    """Put an entry of another file into a cache, last used this many days ago."""
    entry = root / name
    (entry / "tree").mkdir(parents=True, mode=0o700)
    root.chmod(0o700)
    (entry / "made").write_text("boot -\n", encoding="ascii")
    lock = root / f"{name}.lock"
    lock.touch()
    then = time.time() - days * DAY
    os.utime(lock, (then, then))
    return entry


def day_of(seconds: float) -> str:
    """Return the local day of a time."""
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def test_old_entries_go_when_a_new_one_comes(installed: Installation) -> None:
    """Not in use for 30 days, but for the newest two."""
    days = (29, 31, 50)
    names = [letter * 20 for letter in "abc"]
    entries = [aged(installed.root, *one) for one in zip(names, days, strict=True)]
    assert installed.run().out == installed.ran
    assert [one.exists() for one in entries] == [True, False, False]
    assert installed.tree.exists()


def test_a_cache_that_is_used_twice_a_year_stays(installed: Installation) -> None:
    """The newest two stay, whatever their age."""
    old, older = aged(installed.root, "a" * 20, 200), aged(installed.root, "b" * 20, 300)
    assert installed.run().out == installed.ran
    assert (old.exists(), older.exists()) == (True, False)


def test_the_cache_can_be_listed_and_cleaned(installed: Installation) -> None:
    """With sizes and what each is for."""
    assert installed.start("cache") == Done(0, "", "")
    now = time.time()
    other = aged(installed.root, "a" * 20, 3)
    installed.run()
    today = "|".join(map(day_of, {now, time.time()}))  # it may be midnight
    then = "|".join(map(day_of, {now - 3 * DAY, time.time() - 3 * DAY}))
    mine, others = installed.start("cache").out.splitlines()
    size = r" +\d[\d.]* [MK]?B(?:ytes)?"
    assert re.fullmatch(
        rf"{installed.root}/{installed.key} {size}  last used (?:{today})  \(of this file\)", mine
    )
    assert re.fullmatch(rf"{other} .*  last used (?:{then})", others)
    assert installed.start("cache", "--clean").out.splitlines() == [
        f"removed {installed.root / installed.key}", f"removed {other}",
    ]  # fmt: skip
    assert not installed.tree.exists()
    assert not other.exists()
    assert installed.start("cache") == Done(0, "", "")
    assert installed.run().out == installed.ran


def test_what_is_in_use_is_not_cleaned_away(installed: Installation) -> None:
    """An executor runs from it."""
    (installed.place / "said.py").write_text(SERVER, encoding="ascii")
    options = ("--access_code", "said", "--ignore_kernel", "--host", "127.0.0.1")
    with installed.program(installed.place / "said.py", *options) as program:
        program.wait_for("ready")
        kept = installed.start("cache", "--clean")
        assert "removed" not in kept.out
        assert fetch(program.url, said("hi")) == (200, "torch")
        program.process.terminate()
        assert program.end() == 0
    assert installed.start("cache", "--clean").out == f"removed {installed.root / installed.key}\n"


# -- roots that are made beforehand


@pytest.fixture
def public(small: Path) -> Iterator[Installation]:
    """Put a copy of the small file where other users can read it and none but root can write."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Installation(Path(folder), small)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_what_root_unpacked_another_user_runs(public: Installation, umask: int) -> None:
    """As in an image, whatever the umask it was made with; the user has neither name nor home."""
    root = public.place / "root"
    user = another_user(public_python(), public.file, public.probe, "--root", root)
    made = start(sys.executable, public.file, "unpack", root, umask=umask, HOME=public.home)
    assert made.code == 0
    line = f"{root / public.key}: the folder becomes a root for --root DIR or KUWA_MIN_ROOT\n"
    assert made.out == line
    before = below(root)
    assert start(*user) == Done(0, public.ran_from(root), "")
    assert below(root) == before
    assert below(public.home) == []


@pytest.mark.parametrize("umask", [0o000, 0o002])
def test_no_other_user_plants_bytecode_in_an_unpacked_root(
    public: Installation, umask: int
) -> None:
    """Not under any umask; and what an earlier version left open is removed before it runs."""
    root = public.place / "root"
    assert start(sys.executable, public.file, "unpack", root, HOME=public.home).code == 0
    run = (sys.executable, public.file, public.probe, "--root", root)
    written = {"HOME": public.home, "PYTHONDONTWRITEBYTECODE": ""}
    ran = public.ran_from(root)
    assert start(*run, umask=umask, **written) == Done(0, ran, "")
    package = next(path for path in root.glob("*/tree/torch/__pycache__"))
    plant = ("touch", package / "evil")
    assert start(*another_user(*plant)).code != 0
    package.chmod(0o777)
    assert start(*another_user(*plant)).code == 0
    done = start(*run, umask=umask, **written)
    assert (done.code, done.out) == (0, ran)
    assert f"others may write to {package}: removed" in done.err
    assert [path.suffix for path in package.iterdir()] == [".pyc"]
    assert not (package / "evil").exists()


def test_an_unpacked_root_runs_from_a_read_only_disk(installed: Installation) -> None:
    """With an empty HOME."""
    root = installed.place / "root"
    assert installed.start("unpack", root).code == 0
    script = f'{read_only(installed.place)}; "$@"'
    command = mounting(script, sys.executable, installed.file, installed.probe)
    assert start(*command, "--root", root, HOME="") == Done(0, installed.ran_from(root), "")
    assert start(*command, HOME="", KUWA_MIN_ROOT=root) == Done(0, installed.ran_from(root), "")


def test_an_unpacked_root_that_is_old_still_runs_from_a_read_only_disk(
    installed: Installation,
) -> None:
    """The time of last use cannot be written there."""
    root = installed.place / "root"
    assert installed.start("unpack", root).code == 0
    then = time.time() - 400 * DAY
    for path in (root / f"{installed.key}.lock", root / installed.key / "made"):
        os.utime(path, (then, then))
    script = f'{read_only(installed.place)}; "$@"'
    command = mounting(script, sys.executable, installed.file, installed.probe, "--root", root)
    assert start(*command, HOME="") == Done(0, installed.ran_from(root), "")


def test_to_unpack_twice_is_to_unpack_once(installed: Installation) -> None:
    """The second time says where it is."""
    first, second = (installed.start("unpack", installed.place / "root") for _ in range(2))
    assert first.out == second.out
    assert first.err.startswith(installed.unpacked(installed.place / "root"))
    assert second == Done(0, first.out, "")
