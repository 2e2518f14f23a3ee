"""Which CUDA a driver runs, and which of them the index has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.elf.host_requirements import DRIVERS
from kuwa_min.packing.wheels.driver import LEAST, check_variant, for_driver, variants
from kuwa_min.packing.wheels.lock import Lock
from kuwa_min.packing.wheels.resolve import WheelSources, resolve
from kuwa_min.packing.wheels.target import TargetPython
from tests.support.fake_wheels import leave_the_internet, make_wheel, served

TARGET = TargetPython("3.12", "manylinux_2_28_x86_64")
CP312 = "cp312-cp312-manylinux_2_28_x86_64"


@pytest.mark.parametrize(
    ("driver", "first", "last"),
    [
        ("595.45.04", "cu132", "cu118"),
        ("580", "cu130", "cu118"),  # then 13.2, then the older versions
        ("570.26", "cu128", "cu118"),
        ("550", "cu124", "cu118"),
        ("535.54", "cu124", "cu118"),  # 12.4 is the nearest of its version that there may be
        ("470", "cu118", "cu118"),
    ],
)
def test_a_driver_runs_what_it_came_with_and_what_is_older(
    driver: str, first: str, last: str
) -> None:
    """Newer ones of the same major version follow, the nearest first."""
    found = variants(driver)
    assert (found[0], found[-1]) == (first, last)
    assert variants("550") == ["cu124", "cu126", "cu128", "cu129", "cu118"]


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ("390.157", "--driver 390.157 is too old for every CUDA .* 450 or newer"),
        ("550,", "give the version that nvidia-smi says: 550"),
        ("12.4", "give the version that nvidia-smi says: 550"),
    ],
)
def test_what_is_no_driver_or_too_old_is_refused(driver: str, words: str) -> None:
    """In one line."""
    with pytest.raises(UsageError, match=words):
        variants(driver)


def test_the_least_drivers_are_those_that_built_files_ask_for() -> None:
    """By the major version of CUDA."""
    assert {f"cu{cuda}": int(least[:3]) for cuda, least in DRIVERS.items()} == LEAST


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve PyTorch's index: torch 2.13 for two versions of CUDA, an old one for a third."""
    leave_the_internet(monkeypatch, tmp_path)
    root = tmp_path / "index"
    for variant, version in (("cu126", "2.13.0"), ("cu130", "2.13.0"), ("cu118", "2.7.1")):
        local = f"{version}+{variant}"
        make_wheel(root / variant / "torch", "torch", local, "nvidia-x", tag=CP312)
        make_wheel(root / variant / "torchvision", "torchvision", f"1+{variant}", tag=CP312)
    make_wheel(root / "usual" / "nvidia-x", "nvidia-x", "1")
    with served(root) as url:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{url}/usual")
        yield url


@pytest.mark.slow
def test_the_index_says_which_variants_there_are(index: str) -> None:
    """The first that has the preferred torch; without one, the one with the newest."""
    lines: list[str] = []
    tested = WheelSources(torch_index=index, preferred=("torch==2.13.0",))
    newest = WheelSources(torch_index=index)
    for driver, sources, expected in (
        ("550", tested, "cu126"),
        ("590", tested, "cu130"),
        ("580", newest, "cu130"),
        ("470", newest, "cu118"),
    ):
        found = for_driver(driver, TARGET, sources, lines.append)
        assert found == sources._replace(torch_variant=expected)
    assert lines[0] == "driver 550: torch 2.13.0 for cu126"
    words = (
        r"torch==2.13.0 for .* is built for no CUDA that driver 470 runs \(cu118 were .*--newest"
    )
    with pytest.raises(UsageError, match=words):
        for_driver("470", TARGET, tested, lines.append)


@pytest.mark.slow
def test_what_is_built_with_torch_comes_from_its_index(index: str) -> None:
    """The torchvision of another index would be for another CUDA."""
    sources = WheelSources(torch_index=index, torch_variant="cu126")
    pins = resolve("some", ["torch", "torchvision"], TARGET, sources).pins
    assert {pin.name: pin.version for pin in pins} == {
        "nvidia-x": "1",
        "torch": "2.13.0+cu126",
        "torchvision": "1+cu126",
    }


def test_an_index_that_cannot_be_reached_is_no_lack_of_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is said at once."""
    leave_the_internet(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match="Failed to fetch"):
        for_driver("580", TARGET, WheelSources(torch_index="http://127.0.0.1:9"), print)


def test_offline_the_folders_have_the_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No index is asked."""
    leave_the_internet(monkeypatch, tmp_path)
    folder = make_wheel(tmp_path, "torch", "2.13.0+cu129", tag=CP312).parent
    sources = WheelSources(find_links=(str(folder),), no_index=True, preferred=("torch==2.13.0",))
    assert for_driver("550", TARGET, sources, print).torch_variant == "cu129"


def test_a_lock_must_be_for_a_cuda_that_the_driver_runs() -> None:
    """Which torch of the usual index is for cannot be known."""
    lock = Lock("some", TARGET, (), "cu126")
    check_variant(lock, "550")
    for variant, words in (("cu130", "cu130"), ("", "whichever CUDA the usual index had")):
        with pytest.raises(UsageError, match=f"the lock has torch for {words}, and driver 550"):
            check_variant(lock._replace(torch_variant=variant), "550")
