"""From what a backend requires to what travels: locks are kept, the host's part is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.assemble import Libraries
from kuwa_min.packing.libraries.find import _check_toolkit, find_libraries
from kuwa_min.packing.libraries.request import LibraryRequest
from kuwa_min.packing.wheels.lock import read_lock
from kuwa_min.packing.wheels.prune import prune
from kuwa_min.packing.wheels.resolve import WheelSources
from kuwa_min.packing.wheels.target import TargetPython
from kuwa_min.registry import BackendInfo
from tests.support.fake_wheels import digest, leave_the_internet, make_wheel

pytestmark = pytest.mark.slow  # uv, pip and other processes
TARGET = TargetPython("3.12", "manylinux_2_28_x86_64")
BACKEND = BackendInfo("some", "[Test] Some.", {"pack": "pack>=1.5"})
CP312 = "cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64"
CP313 = "cp313-cp313-manylinux_2_17_x86_64"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_the_internet(monkeypatch, tmp_path)


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """Fill a folder: pack needs dep, and both come in more than one version or build."""
    folder = tmp_path / "links"
    for version in ("1.4", "2.0"):
        make_wheel(folder, "pack", version, "dep", tag=CP312)
    make_wheel(folder, "pack", "2.0", "dep", tag=CP313)
    make_wheel(folder, "dep", "1.0", extra="A = 1\n")
    return folder


def requested(
    links: Path, *, lock: Path | None = None, backend: BackendInfo = BACKEND, **more: object
) -> LibraryRequest:
    """Request libraries from this folder alone."""
    sources = WheelSources(find_links=(str(links),), no_index=True)
    made = LibraryRequest(backend, TARGET, sources, lock, links.parent / "wheelhouse", ())
    return made._replace(**more)  # type: ignore[arg-type]


def found(made: LibraryRequest) -> tuple[Libraries, list[str]]:
    """Find the libraries; return them and what was told."""
    lines: list[str] = []
    return find_libraries(made, list, lines.append), lines


def names(libraries: Libraries) -> list[tuple[str, str]]:
    """Return which packages travel."""
    return [(one["name"], one["version"]) for one in libraries.packages]


def test_it_finds_what_is_required_and_what_that_requires(links: Path) -> None:
    """For the machine that was named; each step is told."""
    libraries, lines = found(requested(links))
    assert names(libraries) == [("dep", "1.0"), ("pack", "2.0")]
    assert lines[0] == "resolving pack>=1.5 for Python 3.12 on manylinux_2_28_x86_64"
    assert lines[1].startswith("versions of today: 0 of 2 packages as tested (20")
    assert lines[1].endswith("; never tested: dep 1.0, pack 2.0")
    wheel = next(links.glob("pack-2.0-cp312*"))
    package = libraries.packages[1]
    assert (package["wheel"], package["sha256"]) == (wheel.name, digest(wheel))
    paths = {member.path for member in libraries.files if ".dist-info" not in member.path}
    assert paths == {"dep/__init__.py", "pack/__init__.py"}


def test_the_target_is_the_machine_and_what_the_wheels_need(links: Path) -> None:
    """The glibc is that of the wheels' tags, which may be older than that of the platform."""
    target = found(requested(links))[0].target
    assert target == {
        "python": "3.12",
        "implementation": "cpython",
        "abi": "cp312",
        "bytecode": "",
        "platform": "manylinux_2_28_x86_64",
        "os": "linux",
        "machine": "x86_64",
        "glibc": "2.17",
        "libraries": {},
        "cpu": [],
        "cuda": "",
        "driver": "",
        "gpu_libraries": [],
    }


def test_what_is_not_needed_can_be_left_out(links: Path) -> None:
    """The package is named all the same: some of it travels."""
    make_wheel(links, "sympy", "1.0")
    with_tests = BackendInfo("some", "", {"sympy": "sympy"})
    for keep in (list, prune):
        libraries = find_libraries(requested(links, backend=with_tests), keep, print)
        assert names(libraries) == [("sympy", "1.0")]


# -- the lock


def test_a_lock_is_made_and_names_the_files_that_went_in(links: Path, tmp_path: Path) -> None:
    """Whatever other builds of them there are, every later build takes the same."""
    lock = tmp_path / "some.lock"
    found(requested(links, lock=lock))
    made = read_lock(lock)
    used = {"pack": next(links.glob("pack-2.0-cp312*")), "dep": next(links.glob("dep*"))}
    assert {pin.name: pin.hashes for pin in made.pins} == {
        name: (digest(path),) for name, path in used.items()
    }
    more = (pin._replace(hashes=(*pin.hashes, "0" * 64)) for pin in made.pins)
    lock.write_text(made._replace(pins=tuple(more)).text(), encoding="utf-8")
    found(requested(links, lock=lock))
    assert read_lock(lock) == made


def test_a_lock_is_followed_though_there_are_newer_versions(links: Path, tmp_path: Path) -> None:
    """Nothing is resolved, and the lock stays unchanged."""
    lock = tmp_path / "some.lock"
    first, _ = found(requested(links, lock=lock))
    text = lock.read_text(encoding="utf-8")
    os.utime(lock, (1, 1))
    make_wheel(links, "pack", "3.0", "dep", tag=CP312)
    second, lines = found(requested(links, lock=lock))
    assert (first, lock.read_text(encoding="utf-8")) == (second, text)
    assert [line.partition(":")[0] for line in lines] == [f"versions of {lock}"]
    assert lock.stat().st_mtime == 1  # it may be read-only


def test_a_lock_without_a_folder_is_refused_before_anything_is_fetched(
    links: Path, tmp_path: Path
) -> None:
    """A folder that is misspelled is not made."""
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere for the lock"):
        found(requested(links, lock=tmp_path / "nowhere" / "some.lock"))
    assert not (tmp_path / "wheelhouse").exists()


def test_a_lock_for_another_machine_is_refused(links: Path, tmp_path: Path) -> None:
    """Before anything is fetched; it is not overwritten."""
    lock = tmp_path / "some.lock"
    found(requested(links, lock=lock))
    text = lock.read_text(encoding="utf-8")
    with pytest.raises(UsageError, match=r"the lock is for some, Python 3\.12 .* make another"):
        found(requested(links, lock=lock, target=TARGET._replace(python="3.13")))
    assert lock.read_text(encoding="utf-8") == text


def test_a_wheel_that_changed_since_is_refused(links: Path, tmp_path: Path) -> None:
    """Whatever changed it."""
    lock = tmp_path / "some.lock"
    found(requested(links, lock=lock))
    make_wheel(links, "dep", "1.0", extra="A = 2\n")
    with pytest.raises(UsageError, match="is not the file of the lock: its sha256 should be"):
        found(requested(links, lock=lock))


def test_without_a_lock_nothing_is_kept_but_the_wheelhouse(links: Path, tmp_path: Path) -> None:
    """What was learnt of the wheels stays there too."""
    before = set(tmp_path.iterdir())
    found(requested(links))
    more = {path.name for path in set(tmp_path.iterdir()) - before}
    assert more <= {"wheelhouse", "uv-cache"}


# -- the host's part


def test_what_the_host_has_stays_there(links: Path, tmp_path: Path) -> None:
    """With all that only it needs; the lock knows of it."""
    make_wheel(links, "own", "1.0")
    backend = BackendInfo("some", "", {"pack": "pack>=1.5", "own": "own"})
    lock = tmp_path / "some.lock"
    libraries, lines = found(requested(links, lock=lock, backend=backend, host_packages=("pack",)))
    assert names(libraries) == [("own", "1.0")]
    assert libraries.host_packages == ["pack"]
    assert lines[0].startswith("resolving own for ")
    assert read_lock(lock).host_packages == ("pack",)
    with pytest.raises(UsageError, match="make another lock"):
        found(requested(links, lock=lock, backend=backend))


# -- refusals


def test_what_no_wheel_has_is_one_refusal(links: Path) -> None:
    """It says what there is."""
    with pytest.raises(UsageError, match="pack"):
        found(requested(links, backend=BackendInfo("some", "", {"pack": "pack>=9"})))


# -- versions, and more packages


def test_the_preferred_version_is_taken_where_it_suits(links: Path) -> None:
    """And the newest elsewhere, which is said."""
    sources = requested(links).sources._replace(preferred=("pack==1.4", "dep==1.0"))
    libraries, _ = found(requested(links, sources=sources))
    assert names(libraries) == [("dep", "1.0"), ("pack", "2.0")]  # pack must be 1.5 or newer
    make_wheel(links, "pack", "1.6", "dep", tag=CP312)
    sources = sources._replace(preferred=('pack==1.6 ; python_version >= "3.11"',))
    libraries, lines = found(requested(links, sources=sources))
    assert names(libraries) == [("dep", "1.0"), ("pack", "1.6")]
    assert lines[1].startswith("versions of the constraints file: ")


def test_more_packages_travel_and_are_pinned(links: Path, tmp_path: Path) -> None:
    """With what they require; a lock without them is refused."""
    make_wheel(links, "extra", "1.2", "of-extra")
    make_wheel(links, "of-extra", "3")
    lock = tmp_path / "some.lock"
    with_extra = requested(links, lock=lock, more=("extra<2",))
    expected = [("dep", "1.0"), ("extra", "1.2"), ("of-extra", "3"), ("pack", "2.0")]
    assert names(found(with_extra)[0]) == expected
    assert [pin.name for pin in read_lock(lock).pins] == ["dep", "extra", "of-extra", "pack"]
    with pytest.raises(UsageError, match="the lock lacks another, which is needed"):
        found(with_extra._replace(more=("another",)))


@pytest.mark.parametrize("name", ["libcudart.so.13", "libcublas.so.12"])
def test_a_file_that_would_need_a_cuda_toolkit_is_refused(tmp_path: Path, name: str) -> None:
    """A driver has no such library, and most machines have no more than a driver."""
    request = LibraryRequest(
        BackendInfo("llamacpp", "", {}), TargetPython.of_this_machine(), WheelSources(), None,
        tmp_path, (),
    )  # fmt: skip
    with pytest.raises(UsageError, match=f"{name} of the libraries of a CUDA .* build with --cuda"):
        _check_toolkit(["libz.so.1", name], request)
    _check_toolkit(["libz.so.1", "libgomp.so.1"], request)
    _check_toolkit([name], request._replace(host_packages=("torch",)))
