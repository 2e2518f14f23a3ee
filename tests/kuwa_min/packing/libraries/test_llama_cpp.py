"""llama-cpp-python: given, compiled once, or pinned by a lock as the source that it is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.bundle.versions import python_minor
from kuwa_min.errors import UsageError
from kuwa_min.packing.elf.reader import Elf
from kuwa_min.packing.elf.scan import ElfScan
from kuwa_min.packing.libraries import llama_cpp as supply
from kuwa_min.packing.libraries.request import LibraryRequest
from kuwa_min.packing.llama_cpp import ggml_backend
from kuwa_min.packing.llama_cpp.ggml_backend import GgmlBackend
from kuwa_min.packing.llama_cpp.llama_wheel import CompiledWheel
from kuwa_min.packing.wheels.lock import Pin, SourcePin, read_lock
from kuwa_min.packing.wheels.target import TargetPython
from kuwa_min.registry import BackendInfo
from tests.kuwa_min.packing.libraries.test_find import found, names, requested
from tests.support.fake_wheels import digest, leave_the_internet, make_wheel

OTHER = "3.12" if python_minor() != "3.12" else "3.13"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_the_internet(monkeypatch, tmp_path)


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """Fill a folder with what llama-cpp-python and its CUDA backend require."""
    folder = tmp_path / "links"
    make_wheel(folder, "dep", "1.0")
    for version in ("13.0.2.14", "13.1.1.3"):
        make_wheel(folder, "nvidia-cublas", version)
    return folder


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


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for compiling a backend for graphics cards: record its flags."""
    compiled: list[str] = []

    def compile(backend: GgmlBackend, flags: object, build: object, part: Path, _: object) -> Path:
        compiled.append(f"compile {backend.name}")
        library = part / backend.library
        library.write_bytes(b"machine code")
        return library

    monkeypatch.setattr(ggml_backend, "_compile", compile)
    monkeypatch.setattr(ggml_backend, "fetch_tools", lambda *_: {})
    return compiled


CUDA = GgmlBackend(
    "cuda", ("-DX=1",), "$ORIGIN", "nvcc 13", 60, ("nvidia-cublas==13.0.2.14",), {"archs": b"90"}
)


def for_another(request: LibraryRequest, **names: str) -> LibraryRequest:
    """Return the request for another Python or another platform."""
    return request._replace(target=request.target._replace(**names))


@pytest.mark.slow
def test_what_is_compiled_here_serves_every_python(
    links: Path, steps: list[str], libraries: list[str]
) -> None:
    """Of this processor and glibc: neither wheel nor library is compiled again."""
    here = llama_requested(links)._replace(gpu=CUDA)
    taken = [found(one)[0].packages for one in (here, for_another(here, python=OTHER))]
    assert [one["version"] for one in taken[0]] == ["1.0", "0.3.36+cuda", "13.0.2.14"]
    assert taken[1] == taken[0]
    assert libraries == ["compile cuda"]
    assert len({*steps}) == 2


@pytest.mark.parametrize(
    ("wheel", "glibc", "words"),
    [
        ("py3-none-linux_x86_64", "GLIBC_2.34", "needs glibc 2.34, and .* has 2.28: build it the"),
        ("py3-none-linux_x86_64", "GLIBC_2.17", ""),
        ("cp310-cp310-linux_x86_64", "GLIBC_2.17", "is not for Python .*: build it there"),
    ],
)
def test_what_would_not_run_there_is_refused_before_cards_are_compiled_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wheel: str, glibc: str, words: str
) -> None:
    """By the wheel's tags, and by the glibc that its libraries need."""
    elf = Elf("x86_64", "", ("libc.so.6",), {"libc.so.6": frozenset({glibc})}, (), {})
    scan = ElfScan("x-1-py3-none-linux_x86_64.whl", {"x.so": elf})
    monkeypatch.setattr(supply, "cached_scan", lambda *_: scan)
    made = make_wheel(tmp_path, "llama_cpp_python", "0.3.36", tag=wheel)
    target = TargetPython(OTHER, "manylinux_2_28_x86_64")
    request = requested(tmp_path / "links", backend=LLAMA, target=target)
    if not words:
        assert supply._with_gpu(CompiledWheel(made, None), request, print).path == made
        return
    with pytest.raises(UsageError, match=f"^{made.name}, compiled here, {words}"):
        supply._with_gpu(CompiledWheel(made, None), request._replace(gpu=CUDA), print)


def test_a_wheel_and_a_backend_to_compile_exclude_each_other(links: Path) -> None:
    """The backend is of the source that the wheel is of, which a wheel does not say."""
    wheel = make_wheel(links, "llama_cpp_python", "0.3.36")
    with pytest.raises(UsageError, match=f"^--cuda adds to .*, and {wheel} was given: leave one"):
        supply.find_wheel(llama_requested(links)._replace(gpu=CUDA), print)


@pytest.mark.slow
def test_a_lock_holds_what_the_card_needs(
    links: Path, tmp_path: Path, steps: list[str], libraries: list[str]
) -> None:
    """It is followed with --cuda alone; a lock of a build for processors is no lock for a card."""
    lock = tmp_path / "llama.lock"
    request = llama_requested(links, lock)._replace(gpu=CUDA)
    made, lines = found(request)
    assert "; as llama.cpp was compiled with: nvidia-cublas 13.0.2.14; never" in lines[-1]
    text = lock.read_text(encoding="utf-8")
    pins = {pin.name: pin.version for pin in read_lock(lock).pins}
    expected = {"dep": "1.0", "llama-cpp-python": "0.3.36", "nvidia-cublas": "13.0.2.14"}
    assert pins == expected
    again, _ = found(request)
    assert (again, lock.read_text(encoding="utf-8")) == (made, text)
    assert libraries == ["compile cuda"]
    with pytest.raises(UsageError, match="was made with --cuda: say it again, or make another"):
        found(request._replace(gpu=None))
    newer = CUDA._replace(requirements=("nvidia-cublas==13.1.1.3",))
    with pytest.raises(UsageError, match=r"does not pin nvidia-cublas==13.1.1.3: make another"):
        found(request._replace(gpu=newer))
    processors = tmp_path / "processors.lock"
    found(llama_requested(links, processors))
    with pytest.raises(UsageError, match=r"does not pin nvidia-cublas==13.0.2.14: make another"):
        found(request._replace(lock=processors))
    assert steps.count("pin llama-cpp-python>=0.3.16") == 2


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


def test_llama_cpp_for_another_machine_needs_its_wheel(links: Path) -> None:
    """It cannot be compiled here, and there are no published wheels."""
    backend = BackendInfo("llamacpp", "", {"llama_cpp": "llama-cpp-python>=0.3.16"})
    elsewhere = TargetPython("3.12", "manylinux_2_28_aarch64")
    with pytest.raises(UsageError, match="build its wheel on such a machine, and give its folder"):
        found(requested(links, backend=backend, target=elsewhere))


def test_a_toolkit_of_yours_is_refused_before_hours_are_spent(
    links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file would need that toolkit on every machine."""
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    with pytest.raises(
        UsageError, match=r"^'-DGGML_CUDA=on' in CMAKE_ARGS makes a file that would"
    ):
        found(llama_requested(links))
