"""Gathering: wheels from folders and through real pip, each with its hash."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.fetch import fetch_from_index, fetch_wheels
from kuwa_min.packing.wheels.lock import Lock, Pin
from kuwa_min.packing.wheels.resolve import WheelSources
from kuwa_min.packing.wheels.target import TargetPython
from kuwa_min.packing.wheels.wheelhouse import sha256_of
from tests.support.fake_wheels import digest, leave_the_internet, make_wheel, served

TARGET = TargetPython("3.12", "manylinux_2_28_x86_64")
CP312 = "cp312-cp312-manylinux_2_28_x86_64"
OLDER = "cp312-cp312-manylinux2010_x86_64"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_the_internet(monkeypatch, tmp_path)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a usual index and PyTorch's, which are in the folder that this gives."""
    folder = tmp_path / "index"
    folder.mkdir()
    with served(folder) as url:
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/usual")
        monkeypatch.setenv("TORCH_INDEX", f"{url}/torch")
        yield folder


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a process is started."""

    def refuse(*command: object, **more: object) -> None:
        raise AssertionError(f"{command} was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def locked(*wheels: Path, variant: str = "") -> Lock:
    """Lock exactly these wheels."""
    names = [path.name.split("-") for path in wheels]
    pins = (
        Pin(name.replace("_", "-"), version, (digest(path),))
        for (name, version, *_), path in zip(names, wheels, strict=True)
    )
    return Lock("debug", TARGET, tuple(pins), variant)


def ignore(line: str) -> None:
    """Take a line about a step."""


def silent(line: str) -> None:
    """Fail for anything that is said."""
    raise AssertionError(line)


@pytest.mark.usefixtures("alone")
def test_local_wheels_are_used_where_they_lie(tmp_path: Path) -> None:
    """No copy, no process; in order of their names, with their hashes."""
    first = make_wheel(tmp_path / "wheels", "zebra", "1")
    second = make_wheel(tmp_path / "links", "some-library", "2.0", tag=CP312)
    third = make_wheel(tmp_path / "house", "ant", "1+local")
    make_wheel(tmp_path / "house", "unasked", "1")
    sources = WheelSources((first.parent,), (str(second.parent),))
    wheels = fetch_wheels(locked(first, second, third), sources, third.parent, silent)
    assert list(wheels.items()) == [(path, digest(path)) for path in (third, second, first)]


@pytest.mark.usefixtures("alone")
def test_the_best_tag_wins(tmp_path: Path) -> None:
    """Unless the lock knows only another one, or a folder that counts more has one."""
    best = make_wheel(tmp_path, "library", "1", tag=CP312)
    older = make_wheel(tmp_path, "library", "1", tag=OLDER)
    anywhere = make_wheel(tmp_path, "library", "1")
    make_wheel(tmp_path, "library", "1", tag="cp311-cp311-manylinux_2_28_x86_64")
    all_three = Pin("library", "1", tuple(map(digest, (best, older, anywhere))))
    lock = Lock("debug", TARGET, (all_three,))
    assert list(fetch_wheels(lock, WheelSources(), tmp_path, silent)) == [best]
    narrow = lock.narrowed([digest(anywhere)])
    assert list(fetch_wheels(narrow, WheelSources(), tmp_path, silent)) == [anywhere]
    own = make_wheel(tmp_path / "own", "library", "1", extra="# mine")
    mine = locked(own)
    assert list(fetch_wheels(mine, WheelSources((own.parent,)), tmp_path, silent)) == [own]


@pytest.mark.usefixtures("alone")
def test_an_own_wheel_that_the_lock_does_not_know(tmp_path: Path) -> None:
    """It is refused by name, with both hashes; what the wheelhouse has does not stand in."""
    lock = locked(make_wheel(tmp_path / "house", "library", "1"))
    own = make_wheel(tmp_path / "own", "library", "1", extra="# other")
    with pytest.raises(UsageError) as caught:
        fetch_wheels(lock, WheelSources((own.parent,)), tmp_path / "house", silent)
    assert str(own) in str(caught.value) and "\n" not in str(caught.value)
    assert f"should be {lock.pins[0].hashes[0]}, it is {digest(own)};" in str(caught.value)
    own.unlink()
    newer = make_wheel(tmp_path / "own", "library", "2")
    with pytest.raises(UsageError, match=f"{newer} is not library 1 of the lock"):
        fetch_wheels(lock, WheelSources((newer.parent,)), tmp_path / "house", silent)


@pytest.mark.usefixtures("alone")
def test_without_an_index_pip_is_not_even_asked(tmp_path: Path) -> None:
    """What is missing or damaged must be carried in."""
    wheel = make_wheel(tmp_path / "links", "library", "1")
    sources = WheelSources(find_links=(str(wheel.parent),), no_index=True)
    lock = locked(wheel)
    wheel.write_bytes(wheel.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"library-1-py3-none-any.whl is not the file of the lock"):
        fetch_wheels(lock, sources, tmp_path / "house", silent)
    many = tuple(Pin(f"p{number}", "1", ("0" * 64,)) for number in range(7))
    words = r"no wheel for Python 3.12 .* of p0 1, p1 1, p2 1, p3 1, p4 1 and 2 more in .*links"
    with pytest.raises(UsageError, match=words):
        fetch_wheels(lock._replace(pins=many), sources, tmp_path / "house", silent)


@pytest.mark.slow
def test_the_rest_is_downloaded_once(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """For the target and not for this Python; wheels for older platforms are accepted."""
    house, said = tmp_path / "house", list[str]()
    own = make_wheel(tmp_path / "own", "ant", "1")
    there = make_wheel(index / "usual" / "library", "library", "1", "missing>=1", tag=OLDER)
    make_wheel(index / "usual" / "library", "library", "1", tag="cp312-cp312-win_amd64")
    stable = make_wheel(
        index / "usual" / "stable", "stable", "2", tag="cp38-abi3-manylinux_2_27_x86_64"
    )
    lock, sources = locked(own, there, stable), WheelSources((own.parent,))
    wheels = fetch_wheels(lock, sources, house, said.append)
    assert list(wheels) == [own, house / there.name, house / stable.name]
    assert said == ["downloading 2 of 3 packages"]
    assert "Saved" in capfd.readouterr().err  # pip's words are seen, and not on stdout
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch_wheels(lock, sources, house, silent) == wheels


@pytest.mark.slow
def test_torch_comes_from_where_the_lock_had_it(tmp_path: Path, index: Path) -> None:
    """A lock that is used again knows its variant."""
    torch = make_wheel(index / "torch" / "cpu" / "torch", "torch", "2.13.0+cpu", tag=CP312)
    make_wheel(index / "usual" / "torch", "torch", "2.14.0", tag=CP312)
    sources = WheelSources(torch_index=os.environ["TORCH_INDEX"])
    wheels = fetch_wheels(
        locked(torch, variant="cpu"), sources, tmp_path / "house", lambda line: None
    )
    assert [path.name for path in wheels] == [torch.name]


@pytest.mark.slow
def test_what_was_kept_damaged_is_downloaded_again(tmp_path: Path, index: Path) -> None:
    """A build that was killed leaves a torn file."""
    there = make_wheel(index / "usual" / "library", "library", "1")
    house = tmp_path / "house"
    house.mkdir()
    torn = house / there.name
    torn.write_bytes(there.read_bytes()[:100])
    assert fetch_wheels(locked(there), WheelSources(), house, ignore) == {torn: digest(there)}


@pytest.mark.slow
def test_a_download_that_fails(tmp_path: Path, index: Path) -> None:
    """Pip has said why; nothing with another hash gets in."""
    there = make_wheel(index / "usual" / "library", "library", "1")
    lock = locked(there)
    make_wheel(there.parent, "library", "1", extra="# changed")
    house = tmp_path / "house"
    with pytest.raises(UsageError, match="pip could not download library 1; above it says why"):
        fetch_wheels(lock, WheelSources(), house, ignore)
    assert list(house.iterdir()) == []


def test_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says how to get it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lock = Lock("debug", TARGET, (Pin("library", "1", ("0" * 64,)),))
    with pytest.raises(UsageError, match=f"{sys.executable} has no pip: .* -m ensurepip"):
        fetch_wheels(lock, WheelSources(), tmp_path, ignore)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_files_are_hashed_whole(tmp_path: Path, size: int) -> None:
    """Piece by piece, whatever their size."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(251)) * (size // 251) + b"x" * (size % 251))
    assert sha256_of(path) == digest(path)


@pytest.mark.slow
def test_a_wheel_of_an_index_of_others_is_fetched(index: Path, tmp_path: Path) -> None:
    """The newest that the target accepts, into a folder of that index; nothing else is asked."""
    for version in ("0.3.36", "0.3.37"):
        make_wheel(
            index / "cu130/llama-cpp-python", "llama-cpp-python", version, "numpy", tag=CP312
        )
    url = os.environ["PIP_INDEX_URL"].replace("usual", "cu130")
    said: list[str] = []
    wanted = "llama-cpp-python>=0.3.36"
    folder = fetch_from_index(wanted, url, TARGET, tmp_path, said.append)
    assert [path.name for path in folder.iterdir()] == [f"llama_cpp_python-0.3.37-{CP312}.whl"]
    assert said == [f"downloading {wanted} for {TARGET} from {url}"]
    with pytest.raises(UsageError, match=r"usual gives no wheel of llama-cpp-python>=0\.3\.36 for"):
        fetch_from_index(wanted, os.environ["PIP_INDEX_URL"], TARGET, tmp_path, said.append)
