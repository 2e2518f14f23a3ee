"""Resolving: real uv, small wheels, an index on this machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.lock import Lock, Pin, check, read_lock
from kuwa_min.packing.wheels.resolve import WheelSources, choose_sdist, explain, resolve
from kuwa_min.packing.wheels.target import TargetPython
from tests.support.fake_wheels import digest, leave_the_internet, make_wheel, served

TARGET = TargetPython("3.12", "manylinux_2_28_x86_64")
CP312 = "cp312-cp312-manylinux_2_28_x86_64"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_the_internet(monkeypatch, tmp_path)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Make a wheelhouse: an app, a library in two versions, and what older Pythons need."""
    folder = tmp_path / "house"
    make_wheel(folder, "app", "1", "library>=2", 'exceptiongroup; python_version < "3.11"')
    make_wheel(folder, "library", "1")
    make_wheel(folder, "library", "2.0", tag="cp312-cp312-manylinux2014_x86_64")
    make_wheel(folder, "library", "2.0", tag="cp310-cp310-manylinux2014_x86_64")
    make_wheel(folder, "library", "3.0", tag="cp312-cp312-manylinux_2_34_x86_64")
    make_wheel(folder, "exceptiongroup", "1.3.0")
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a usual index with a new torch, and PyTorch's with an older one for CPUs."""
    usual, torch = tmp_path / "index" / "usual", tmp_path / "index" / "torch" / "cpu"
    make_wheel(usual / "torch", "torch", "2.14.0", "filelock", tag=CP312)
    make_wheel(usual / "filelock", "filelock", "3")
    make_wheel(usual / "accelerate", "accelerate", "1.5", "torch>=2", "numpy")
    make_wheel(usual / "numpy", "numpy", "2.4", tag=CP312)
    make_wheel(torch / "torch", "torch", "2.13.0+cpu", "filelock", tag=CP312)
    make_wheel(torch / "filelock", "filelock", "9")
    with served(tmp_path / "index") as url:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{url}/usual")
        yield url


def versions(lock: Lock) -> dict[str, str]:
    """Return what a lock has."""
    return {pin.name: pin.version for pin in lock.pins}


@pytest.mark.slow
def test_a_wheelhouse_without_any_index(house: Path) -> None:
    """The newest versions whose wheels suit the target, with the hashes of those."""
    lock = resolve("debug", ["app"], TARGET, WheelSources(find_links=(str(house),), no_index=True))
    assert (lock.backend, lock.target, lock.torch_variant) == ("debug", TARGET, "")
    assert versions(lock) == {"app": "1", "library": "2.0"}
    (pin,) = (pin for pin in lock.pins if pin.name == "library")
    assert digest(house / "library-2.0-cp312-cp312-manylinux2014_x86_64.whl") in pin.hashes


@pytest.mark.slow
def test_markers_are_those_of_the_box(house: Path) -> None:
    """The Python that runs this one does not count: pip gets that wrong."""
    old = TARGET._replace(python="3.10")
    lock = resolve("debug", ["app"], old, WheelSources(find_links=(str(house),), no_index=True))
    assert versions(lock) == {"app": "1", "exceptiongroup": "1.3.0", "library": "2.0"}


@pytest.mark.slow
def test_the_same_question_has_the_same_bytes(house: Path, tmp_path: Path) -> None:
    """And a lock that is read again is the same, and good for what it was made for."""
    sources = WheelSources(find_links=(house.as_uri(),), no_index=True)
    texts = {resolve("debug", ["app"], TARGET, sources).text() for _ in range(2)}
    assert len(texts) == 1
    path = tmp_path / "kuwa.lock"
    path.write_text("".join(texts), encoding="utf-8")
    check(read_lock(path), "debug", TARGET, ["app>=1"])
    assert read_lock(path).text() in texts


@pytest.mark.slow
def test_the_own_wheels_are_used_exactly(index: str, tmp_path: Path) -> None:
    """Whatever newer one the index has; and no other file of that version will do."""
    own = make_wheel(tmp_path / "own", "torch", "2.13.0+cpu", "filelock", tag=CP312, extra="#")
    make_wheel(tmp_path / "own", "torch", "2.12.0", tag=CP312)
    sources = WheelSources(wheels=(own.parent,), torch_index=f"{index}/torch", torch_variant="cpu")
    for asked in (WheelSources(wheels=(own.parent,)), sources):
        lock = resolve("huggingface", ["torch>=2.6"], TARGET, asked)
        assert versions(lock) == {"filelock": "3", "torch": "2.13.0+cpu"}
        assert Pin("torch", "2.13.0+cpu", (digest(own),)) in lock.pins


@pytest.mark.slow
def test_an_own_wheel_for_another_machine(index: str, tmp_path: Path) -> None:
    """It is said, before gigabytes of another one are fetched."""
    make_wheel(tmp_path / "own", "torch", "2.13.0", tag="cp311-cp311-manylinux_2_28_x86_64")
    with pytest.raises(UsageError, match=r"torch-2.13.0-cp311.* is not for Python 3.12"):
        resolve("huggingface", ["torch>=2.6"], TARGET, WheelSources(wheels=(tmp_path / "own",)))


@pytest.mark.slow
def test_an_own_wheel_that_is_too_old(index: str, tmp_path: Path) -> None:
    """Floors hold for it, too."""
    make_wheel(tmp_path / "own", "torch", "2.5", tag=CP312)
    with pytest.raises(UsageError, match=r"kuwa-huggingface depends on torch>=2.6 and torch==2.5"):
        resolve("huggingface", ["torch>=2.6"], TARGET, WheelSources(wheels=(tmp_path / "own",)))


@pytest.mark.slow
def test_torch_from_its_own_index(index: str, tmp_path: Path) -> None:
    """It alone comes from there, although the usual index has a newer one."""
    needed = ["torch>=2.6", "accelerate"]
    sources = WheelSources(torch_index=f"{index}/torch/", torch_variant="cpu")
    lock = resolve("huggingface", needed, TARGET, sources)
    expected = {"accelerate": "1.5", "filelock": "3", "numpy": "2.4", "torch": "2.13.0+cpu"}
    assert (versions(lock), lock.torch_variant) == (expected, "cpu")
    usual = resolve("huggingface", needed, TARGET, WheelSources())
    assert versions(usual) == {**expected, "torch": "2.14.0"}


@pytest.mark.slow
def test_a_variant_of_torch_without_any_index(index: str, tmp_path: Path) -> None:
    """It is the local version of a wheel that was carried in."""
    house = tmp_path / "carried"
    make_wheel(house, "torch", "2.14.0+cu130", tag=CP312)
    make_wheel(house, "torch", "2.13.0+cpu", tag=CP312)
    sources = WheelSources(find_links=(str(house),), no_index=True, torch_variant="cpu")
    lock = resolve("huggingface", ["torch"], TARGET, sources)
    assert versions(lock) == {"torch": "2.13.0+cpu"}
    with pytest.raises(UsageError, match=r"no torch\+cu126 for Python 3.12 .* in .*carried"):
        resolve("huggingface", ["torch"], TARGET, sources._replace(torch_variant="cu126"))


@pytest.mark.slow
def test_what_the_host_has_stays_out(index: str) -> None:
    """And with it what only it needs."""
    lock = resolve("huggingface", ["torch>=2", "accelerate"], TARGET, WheelSources(), ("torch>=2",))
    assert versions(lock) == {"accelerate": "1.5", "numpy": "2.4"}
    assert lock.host_packages == ("torch",)


@pytest.mark.slow
def test_packages_of_backends_may_require_what_the_file_is(tmp_path: Path) -> None:
    """No index has it, and none is asked."""
    house = make_wheel(tmp_path, "parrots", "1.0", "kuwa-min>=0.1", "kuwa_executor").parent
    lock = resolve("mine", ["parrots"], TARGET, WheelSources(wheels=(house,), no_index=True))
    assert versions(lock) == {"parrots": "1.0"}
    assert lock.host_packages == ()


@pytest.mark.slow
def test_a_package_of_sources_alone(index: str, tmp_path: Path) -> None:
    """Nothing is compiled on the way: a wheel is asked for."""
    folder = tmp_path / "index" / "usual" / "llama-cpp-python"
    folder.mkdir()
    (folder / "llama_cpp_python-0.3.36.tar.gz").write_bytes(b"")
    needed = ["llama-cpp-python>=0.3", "numpy"]
    with pytest.raises(UsageError) as caught:
        resolve("llamacpp", needed, TARGET, WheelSources())
    assert str(caught.value).startswith("llama-cpp-python: the index has no wheel for Python 3.12")
    assert str(caught.value).endswith("--wheels DIR")
    make_wheel(tmp_path / "own", "llama-cpp-python", "0.3.36", tag="py3-none-linux_x86_64")
    lock = resolve("llamacpp", needed, TARGET, WheelSources(wheels=(tmp_path / "own",)))
    assert versions(lock) == {"llama-cpp-python": "0.3.36", "numpy": "2.4"}


@pytest.mark.slow
def test_no_settings_are_picked_up_nearby(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those of the environment and of the user count."""
    monkeypatch.delenv("UV_NO_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("UV_NO_SOURCES", "1")
    (tmp_path / "pyproject.toml").write_text("[tool.uv]\nconstraint-dependencies = ['numpy<1']\n")
    monkeypatch.chdir(tmp_path)
    assert versions(resolve("debug", ["numpy"], TARGET, WheelSources())) == {"numpy": "2.4"}


@pytest.mark.slow
def test_constraints_of_the_environment_count(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside our own, from the folder where the build begins: uv would drop them."""
    (tmp_path / "limits.txt").write_text("library<2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UV_CONSTRAINT", "limits.txt")
    sources = WheelSources(find_links=(str(house),), no_index=True)
    assert versions(resolve("debug", ["library"], TARGET, sources)) == {"library": "1"}


@pytest.mark.slow
def test_an_index_that_is_not_there() -> None:
    """The line has its address."""
    with pytest.raises(UsageError, match=r"Failed to fetch: `?http://127.0.0.1:9/simple/numpy/"):
        resolve("debug", ["numpy"], TARGET, WheelSources())


def test_a_choice_that_chooses_nothing(tmp_path: Path) -> None:
    """Is a mistake, and said before anything is started."""
    cpu = WheelSources(torch_variant="cpu")
    for needed, host in ((["numpy"], ()), (["numpy", "torch"], ("torch",))):
        with pytest.raises(UsageError, match="takes no torch along"):
            resolve("llamacpp", needed, TARGET, cpu, host)
    make_wheel(tmp_path, "torch", "2.13.0+cu130", tag=CP312)
    with pytest.raises(UsageError, match=r"cu130-cp312.* is not torch for cpu"):
        resolve("huggingface", ["torch"], TARGET, cpu._replace(wheels=(tmp_path,)))
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere"):
        resolve("huggingface", ["torch"], TARGET, WheelSources(wheels=(tmp_path / "nowhere",)))


def test_without_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says how to get it."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"uv is missing: pip install uv==0.13.9"):
        resolve("debug", ["numpy"], TARGET, WheelSources())


def test_other_threads_need_a_python_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a free-threaded Python uv learns the ABI from one that is here."""
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"to build for Python 3.13t, run build.py with python3"):
        resolve("debug", ["numpy"], TARGET._replace(python="3.13t"), WheelSources())


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "error: No solution found when resolving dependencies\n"
            "  cause: Because only torch<=2.15.0 is available and kuwa-x depends on torch>=99,"
            " we can conclude that your requirements are unsatisfiable.\n",
            "Because only torch<=2.15.0 is available and kuwa-x depends on torch>=99, "
            "so your requirements are unsatisfiable.",
        ),
        (
            "error: Request failed after 3 retries\n  cause: Failed to fetch: http://h/x/\n"
            "  cause: Connection refused (os error 111)\n",
            "Request failed after 3 retries: Failed to fetch: http://h/x/: "
            "Connection refused (os error 111)",
        ),
        ("error: invalid value\n\nFor more information, try '--help'.\n", "invalid value"),
    ],
)
def test_long_errors_become_one_line(said: str, line: str) -> None:
    """Only the reasons are left."""
    assert explain(said, TARGET) == f"uv finds no packages for {TARGET}: {line}"


def test_folders_and_addresses() -> None:
    """Links may be either; the user's own folders come first."""
    links = ("house", "file:///a%20b", "https://example.org/x", "HTTP://example.org")
    assert WheelSources((Path("own"),), links).folders == (Path("own"), Path("house"), Path("/a b"))
    assert WheelSources(torch_variant="cpu").torch_url == "https://download.pytorch.org/whl/cpu"
    assert (
        WheelSources().torch_url == WheelSources(torch_variant="cpu", no_index=True).torch_url == ""
    )


# -- sources


@pytest.mark.slow
def test_the_newest_source_of_an_index_with_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wheels of the package do not matter; without a hash the line says what to do."""
    page = tmp_path / "index" / "library" / "index.html"
    make_wheel(page.parent, "library", "3")
    links = [f"<a href='library-{n}.tar.gz#sha256={n * 64}'>library-{n}.tar.gz</a>" for n in "12"]
    page.write_text("\n".join(links), encoding="utf-8")
    with served(tmp_path / "index") as url:
        monkeypatch.setenv("UV_DEFAULT_INDEX", url)
        assert choose_sdist("library>=1", TARGET, WheelSources()) == Pin(
            "library", "2", ("2" * 64,)
        )
        page.write_text("<a href='library-2.tar.gz'>library-2.tar.gz</a>", encoding="utf-8")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "another"))
        with pytest.raises(UsageError, match=r"no index .* the sha256 of library 2: .*find_links"):
            choose_sdist("library>=1", TARGET, WheelSources())
