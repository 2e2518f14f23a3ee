"""Start files with 70,000 members and with 4 GiB on every Python; say how long that takes."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kuwa_min.bundle.archive import Archive, contents
from kuwa_min.bundle.manifest import Target
from kuwa_min.packing.assemble import ANYWHERE, Libraries, Recipe, build_file
from kuwa_min.packing.pyz import stored_file
from kuwa_min.packing.wheels.wheel import PayloadFile
from kuwa_min.registry import backend_infos
from tests.support.programs import Program, fetch, said
from tests.support.pythons import python_of
from tests.support.stub_build import HERE

pytestmark = pytest.mark.slow
MINORS = ("3.10", "3.11", "3.12", "3.13", "3.14")
MANY = 70_001  # more than the 65,535 that a plain zip can hold
HUGE = 4_300_000_000  # bytes; a plain zip ends at 4,294,967,295
ROOM = 10_000_000_000
TARGET: Target = {
    **ANYWHERE,
    "python": HERE,
    "implementation": "cpython",
    "abi": f"cp{HERE.replace('.', '')}",
}
STARTS = 3
BEHIND = b"this lies behind four gigabytes\n"


def make_file(folder: Path, made_up: list[PayloadFile]) -> Path:
    """Make a real kuwa-huggingface.pyz whose libraries are these contents."""
    recipe = Recipe(
        backend_infos()["huggingface"], folder, Libraries(TARGET, [], made_up, []), None, False
    )
    return build_file(recipe, lambda text: None)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a file with 70,001 members, each another content."""
    folder = tmp_path_factory.mktemp("many")
    source = folder / "source"
    source.write_bytes(b"".join(b"%05d\n" % number for number in range(MANY)))
    line = stored_file(source, "")._replace(size=6, stored=6)
    made_up = (
        line._replace(path=f"some/{number // 1000}/{number}.txt", offset=6 * number)
        for number in range(MANY)
    )
    return make_file(folder, list(made_up))


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a file with more than 4 GiB in front of its last content; it is gone afterwards."""
    folder = tmp_path_factory.mktemp("huge")
    if shutil.disk_usage(folder).free < ROOM:
        pytest.skip(f"less than {ROOM:,} bytes are free at {folder}")
    source, behind = folder / "zeros", folder / "behind"
    with source.open("wb") as file:
        file.truncate(HUGE)
    behind.write_bytes(BEHIND)
    yield make_file(folder, [stored_file(source, "a/zeros"), stored_file(behind, "b/behind.txt")])
    shutil.rmtree(folder)


@pytest.fixture(params=["many", "huge"])
def file(request: pytest.FixtureRequest) -> Path:
    """Give the one, then the other."""
    path: Path = request.getfixturevalue(request.param)
    return path


def answer(python: str, file: Path, *words: str) -> str:
    """Run the file; return what it says, which is no complaint."""
    done = subprocess.run(
        [python, str(file), *words], capture_output=True, text=True, check=False, env=HOMELESS
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


HOMELESS = {"PATH": os.defpath, "HOME": ""}


@pytest.mark.parametrize("minor", MINORS)
def test_every_python_starts_it(file: Path, minor: str) -> None:
    """With all that needs no libraries; nothing is unpacked."""
    python = python_of(minor)
    assert "--delay" in answer(python, file, "debug", "--help")
    assert "huggingface" in answer(python, file, "--list")
    assert f"id {Archive(str(file)).payloads[0]['id']}" in answer(python, file, "--version")
    options = ("debug", "--ignore_kernel", "--host", "127.0.0.1")
    with Program(*options, command=(python, str(file)), HOME="") as program:
        assert fetch(program.url, said("hi")) == (200, "hi")
        program.process.terminate()
        assert program.end() == 0
    assert not (file.parent / ".kuwa").exists()


def test_it_is_as_large_as_it_should_be(many: Path, huge: Path) -> None:
    """Otherwise the tests above would prove nothing."""
    assert Archive(str(many)).payloads[0]["files"] == MANY
    assert huge.stat().st_size > 1 << 32
    assert Archive(str(huge)).payloads[0]["bytes"] == HUGE + len(BEHIND)


def test_zip_tools_still_read_it(file: Path) -> None:
    """The zip at its end is a small one."""
    with zipfile.ZipFile(file) as archive:
        assert "manifest.json" in archive.namelist()
        assert archive.testzip() is None


def test_what_lies_behind_four_gigabytes_can_be_read(huge: Path) -> None:
    """Offsets are large enough."""
    archive = Archive(str(huge))
    payload = archive.payloads[0]
    index = archive.index(payload)
    blob = next(index.blobs[one.blob] for one in index.files if one.path == "b/behind.txt")
    assert blob.offset == HUGE
    with huge.open("rb") as file:
        start = archive.start_of(payload)
        assert b"".join(contents(file.fileno(), start, blob, str(huge))) == BEHIND


def test_all_members_are_unpacked(many: Path, tmp_path: Path) -> None:
    """Each at its place, with its content; a second look finds nothing wrong."""
    environment = {**HOMELESS, "KUWA_MIN_ROOT": str(tmp_path / "root")}
    command = [sys.executable, str(many)]
    subprocess.run([*command, "unpack", str(tmp_path / "root")], check=True, capture_output=True)
    tree = next((tmp_path / "root").glob("*/tree"))
    assert (tree / "some" / "70" / "70000.txt").read_bytes() == b"70000\n"
    assert sum(len(names) for _, _, names in os.walk(tree)) == MANY
    verified = subprocess.run(
        [*command, "verify"], check=True, capture_output=True, text=True, env=environment
    )
    assert verified.stdout.endswith(": 70,001 files, whole\n")
    shutil.rmtree(tmp_path / "root")


def test_what_is_larger_than_4_gib_is_unpacked(huge: Path, tmp_path: Path) -> None:
    """To a disk with room for it; the content behind it is right, too."""
    if shutil.disk_usage(tmp_path).free < ROOM // 2:
        pytest.skip(f"less than {ROOM // 2:,} bytes are free at {tmp_path}")
    root = tmp_path / "root"
    subprocess.run(
        [sys.executable, str(huge), "unpack", str(root)], check=True, capture_output=True
    )
    tree = next(root.glob("*/tree"))
    sizes = {path.name: path.stat().st_size for path in tree.rglob("*") if path.is_file()}
    assert sizes == {"zeros": HUGE, "behind.txt": len(BEHIND)}
    assert (tree / "b" / "behind.txt").read_bytes() == BEHIND
    shutil.rmtree(root)


def test_it_starts_about_as_fast_as_the_bare_core(
    built: Callable[[str], Path],
    many: Path,
    huge: Path,
    record_property: Callable[[str, str], None],
) -> None:
    """Measure it and say so; only what grows with the file would be far off."""
    files = {"pure": built("debug"), "many": many, "huge": huge}
    seconds = {name: min(once(path) for _ in range(STARTS)) for name, path in files.items()}
    told = ", ".join(f"{name} {1000 * one:.0f} ms" for name, one in seconds.items())
    record_property("starts", told)
    sys.stdout.write(f"--version: {told}\n")
    assert re.fullmatch(r"pure \d+ ms, many \d+ ms, huge \d+ ms", told)
    assert max(seconds.values()) < 5 * seconds["pure"] + 0.5


def once(file: Path) -> float:
    """Return the CPU seconds of --version: wall time would count other processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer(sys.executable, file, "--version")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
