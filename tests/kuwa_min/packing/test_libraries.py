"""From what a backend requires to what travels: locks are kept, the host's part is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing import libraries as supply
from kuwa_min.packing.assemble import Libraries
from kuwa_min.packing.libraries import LibraryRequest, find_libraries
from kuwa_min.packing.wheels.llama_wheel import CompiledWheel
from kuwa_min.packing.wheels.lock import Pin, SourcePin, read_lock
from kuwa_min.packing.wheels.prune import prune
from kuwa_min.packing.wheels.resolve import WheelSources
from kuwa_min.packing.wheels.target import TargetPython
from kuwa_min.registry import BackendInfo
from tests.support.fake_wheels import digest, leave_the_internet, make_wheel

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


def test_llama_cpp_for_another_machine_needs_its_wheel(links: Path) -> None:
    """It cannot be compiled here, and there are no published wheels."""
    backend = BackendInfo("llamacpp", "", {"llama_cpp": "llama-cpp-python>=0.3.16"})
    elsewhere = TargetPython("3.12", "manylinux_2_28_aarch64")
    with pytest.raises(UsageError, match="build its wheel on such a machine and give its folder"):
        found(requested(links, backend=backend, target=elsewhere))


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


def test_a_driver_is_for_what_takes_torch_along(links: Path) -> None:
    """The others have no variant to choose."""
    with pytest.raises(UsageError, match="some takes no torch along: leave --driver out"):
        found(requested(links, driver="550"))


# -- llama-cpp-python, which is compiled

LLAMA = BackendInfo("llamacpp", "", {"llama_cpp": "llama-cpp-python>=0.3.16"})
TOOL = Pin("cmake", "4.0", ("1" * 64,))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for compiling: record what is pinned and compiled, of which version."""
    taken: list[str] = []

    def pin(requirement: str, *_: object) -> SourcePin:
        taken.append(f"pin {requirement}")
        return SourcePin(Pin("llama-cpp-python", "0.3.36", ("2" * 64,)), (TOOL,))

    def build(source: SourcePin, sources: object, wheelhouse: Path, tell: object) -> Path:
        taken.append(f"compile {source.sdist.version} with {source.tools[0].version}")
        folder = wheelhouse / "llama-cpp-python-0" / source.sdist.version
        return make_wheel(folder, "llama_cpp_python", source.sdist.version, "dep")

    monkeypatch.setattr(supply, "pin_source", pin)
    monkeypatch.setattr(supply, "build_llama_wheel", build)
    return taken


def llama_requested(links: Path, lock: Path | None = None) -> LibraryRequest:
    """Request what llamacpp requires, for this machine."""
    here = TargetPython.of_this_machine()
    return requested(links, lock=lock, backend=LLAMA, target=here)


@pytest.mark.slow
def test_llama_cpp_is_compiled_for_this_machine(links: Path, steps: list[str]) -> None:
    """Unless its wheel is given; what it requires travels, too."""
    here = llama_requested(links)
    expected = [("dep", "1.0"), ("llama_cpp_python", "0.3.36")]
    assert names(found(here)[0]) == expected
    given = here.sources._replace(wheels=(here.wheelhouse / "llama-cpp-python-0" / "0.3.36",))
    assert names(found(here._replace(sources=given))[0]) == expected
    assert steps == ["pin llama-cpp-python>=0.3.16", "compile 0.3.36 with 4.0"]


def test_a_lock_holds_the_source_and_what_compiles_it(
    links: Path, tmp_path: Path, steps: list[str]
) -> None:
    """It is read before anything is compiled, and then compiled is what it says."""
    lock = tmp_path / "llama.lock"
    made, _ = found(llama_requested(links, lock))
    text = read_lock(lock)
    assert text.source == SourcePin(Pin("llama-cpp-python", "0.3.36", ("2" * 64,)), (TOOL,))
    assert [pin.name for pin in text.pins] == ["dep", "llama-cpp-python"]
    steps.clear()
    again, lines = found(llama_requested(links, lock))
    assert (again, read_lock(lock)) == (made, text)
    assert [line.partition(":")[0] for line in lines] == [f"versions of {lock}"]
    assert steps == ["compile 0.3.36 with 4.0"]
    steps.clear()
    with pytest.raises(UsageError, match="the lock is for llamacpp"):
        found(llama_requested(links, lock)._replace(backend=LLAMA._replace(name="another")))
    assert steps == []


@pytest.mark.slow
def test_a_wheel_beside_a_lock_of_sources_is_refused(
    links: Path, tmp_path: Path, steps: list[str]
) -> None:
    """Which of the two is meant cannot be known."""
    lock = tmp_path / "llama.lock"
    found(llama_requested(links, lock))
    wheel = make_wheel(tmp_path / "own", "llama_cpp_python", "0.3.36")
    again = llama_requested(links, lock)
    given = again.sources._replace(wheels=(wheel.parent,))
    steps.clear()
    with pytest.raises(UsageError, match=f"{wheel} is not in the lock, which pins the source"):
        found(again._replace(sources=given))
    assert steps == []


@pytest.mark.slow
@pytest.mark.usefixtures("steps")
def test_a_lock_for_another_machine_holds_no_source(links: Path, tmp_path: Path) -> None:
    """What would be compiled here does not run there."""
    lock = tmp_path / "llama.lock"
    found(llama_requested(links, lock))
    elsewhere = TargetPython("3.12", "manylinux_2_28_aarch64")
    text = read_lock(lock)._replace(target=elsewhere).text()
    lock.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be compiled here"):
        found(llama_requested(links, lock)._replace(target=elsewhere))


@pytest.mark.slow
def test_a_lock_of_a_wheel_that_was_compiled_finds_that_wheel_or_says_what_to_do(
    links: Path, tmp_path: Path, steps: list[str]
) -> None:
    """Locks held no sources before; nothing is compiled that they do not pin."""
    lock = tmp_path / "llama.lock"
    found(llama_requested(links, lock))
    wheel = next((links.parent / "wheelhouse").glob("llama*/*/*.whl"))
    pin = Pin("llama-cpp-python", "0.3.36", (digest(wheel),))
    lock.write_text(read_lock(lock).with_compiled(pin).text(), encoding="utf-8")
    older = lock.read_text(encoding="utf-8")
    steps.clear()
    assert names(found(llama_requested(links, lock))[0])[1] == ("llama_cpp_python", "0.3.36")
    assert (steps, lock.read_text(encoding="utf-8")) == ([], older)
    wheel.write_bytes(b"")
    words = f"{lock} pins a wheel of llama-cpp-python 0.3.36 that is not here, and no source: "
    with pytest.raises(UsageError, match=f"{words}.*--wheels DIR, or remove the lock"):
        found(llama_requested(links, lock))
    assert steps == []


@pytest.mark.slow
def test_a_wheel_of_an_unknown_source_serves_builds_without_a_lock(
    links: Path, tmp_path: Path, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock could not say what it was made of."""
    wheel = make_wheel(tmp_path / "old", "llama_cpp_python", "0.3.35")
    before = CompiledWheel(wheel, None)  # offline; elsewhere only the preferred version
    monkeypatch.setattr(supply, "compiled_before", lambda *_: before)
    libraries, lines = found(llama_requested(links))
    assert names(libraries) == [("llama_cpp_python", "0.3.35")]
    assert lines[0] == f"{wheel.name} was compiled before, with the same CMAKE_ARGS"
    assert steps == []
    found(llama_requested(links, tmp_path / "llama.lock"))
    assert steps == ["pin llama-cpp-python>=0.3.16", "compile 0.3.36 with 4.0"]
    source = read_lock(tmp_path / "llama.lock").source
    monkeypatch.setattr(supply, "compiled_before", lambda *_: before._replace(source=source))
    steps.clear()
    found(llama_requested(links, tmp_path / "another.lock"))
    assert steps == []


@pytest.mark.parametrize("name", ["libcudart.so.13", "libcublas.so.12"])
def test_a_file_that_would_need_a_cuda_toolkit_is_refused(tmp_path: Path, name: str) -> None:
    """A driver has no such library, and most machines have no more than a driver."""
    request = supply.LibraryRequest(
        BackendInfo("llamacpp", "", {}), TargetPython.of_this_machine(), WheelSources(), None,
        tmp_path, (),
    )  # fmt: skip
    with pytest.raises(UsageError, match=f"{name}, which a CUDA toolkit has .* build with --cuda"):
        supply._check_toolkit(["libz.so.1", name], request)
    supply._check_toolkit(["libz.so.1", "libgomp.so.1"], request)
    supply._check_toolkit([name], request._replace(host_packages=("torch",)))
