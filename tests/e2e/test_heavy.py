"""The real files with the real libraries: built, carried to a machine without internet, run there.

`make heavy` fetches torch and compiles llama.cpp (ten minutes, kept in build/); without that, the
tests here are skipped. What stands for the other machine is a mount and network namespace in which
the project does not exist.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT

pytestmark = pytest.mark.slow
TORCH, WHEELS = ROOT / "build" / "torch", ROOT / "build" / "wheels"
HERE = Path(__file__).resolve().parent
OPTIONS = {
    "huggingface": ("--generation_kwargs", "max_new_tokens=24", "--no_system_prompt"),
    "llamacpp": ("--max_tokens", "24", "--temperature", "0", "--no_system_prompt"),
}
READY = {"huggingface": TORCH, "llamacpp": WHEELS / "llama-ready"}
HIDE = 'mount -t tmpfs none "$1" && shift && exec "$@"'  # nothing of the project is there
PRIVATE = ("unshare", "--map-root-user", "--mount", "--net")


@pytest.fixture(scope="module", params=[*OPTIONS])
def backend(request: pytest.FixtureRequest) -> str:
    """Give each backend whose libraries are here."""
    name = str(request.param)
    if not READY[name].exists():
        pytest.skip(f"the libraries of {name} are not here: make heavy fetches and compiles them")
    if subprocess.run([*PRIVATE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces may be made here")
    return name


@pytest.fixture(scope="module")
def file(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the real file."""
    folder = tmp_path_factory.mktemp("dist")
    wheels = ["--wheels", str(TORCH)] if backend == "huggingface" else []
    command = [sys.executable, "build.py", backend, "--output", str(folder), "--prune", *wheels]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder / f"kuwa-{backend}.pyz"


@pytest.fixture(scope="module")
def model(backend: str, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny real model, with the libraries of the file itself."""
    folder = tmp_path_factory.mktemp("model")
    command = [sys.executable, str(file), "unpack", str(folder / "root")]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    tree = said.partition(": ")[0] + "/tree"
    make = {
        "huggingface": "tiny_models.write_folder(path)",
        "llamacpp": "tiny_models.write_gguf(path / 'tiny.gguf')",
    }
    program = f"import pathlib, sys, tiny_models; path = pathlib.Path(sys.argv[1]); {make[backend]}"
    path = folder / "model"
    path.mkdir()
    known = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), tree])}
    subprocess.run([sys.executable, "-c", program, str(path)], env=known, check=True)
    return path if backend == "huggingface" else path / "tiny.gguf"


@pytest.fixture(scope="module")
def seen(
    backend: str, file: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """Carry file and model over, and be the person there; return what was seen."""
    place = tmp_path_factory.mktemp("another machine")
    home = place / "home"
    home.mkdir()
    for source in (file, file.with_name(f"{file.name}.sha256")):
        shutil.copy(source, place)
    copy = shutil.copytree if model.is_dir() else shutil.copy
    copied = str(copy(model, place / model.name))
    for source in (HERE / "alone.py", ROOT / "tests" / "programs.py"):
        shutil.copy(source, place)
    python = os.path.realpath(sys.executable)  # not the tests' own environment
    driver = [python, place / "alone.py", place / file.name, backend, copied, *OPTIONS[backend]]
    command = [*PRIVATE, "sh", "-c", HIDE, "sh", ROOT, *driver]
    clean = {"PATH": os.defpath, "HOME": str(home), "LC_ALL": "C.UTF-8", "PYTHONPATH": str(place)}
    done = subprocess.run(
        [str(word) for word in command], cwd=place, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "home": home, "file": file}


def test_the_machine_is_found_fit_before_anything_is_written(seen: dict[str, object]) -> None:
    """Every line of --check is good; nothing was unpacked by it."""
    lines = str(seen["check"]).splitlines()
    assert lines
    assert [line for line in lines if line.startswith("refusal")] == []
    assert "nothing is unpacked yet" in str(seen["verify"])


def test_people_chat_with_the_model(seen: dict[str, object]) -> None:
    """Through the embedded Kernel, twice, with the same greedy answer; then it ends cleanly."""
    first, second = seen["answers"]  # type: ignore[misc]
    assert len(first) >= 12
    assert first == second
    assert seen["code"] == 0
    assert "Traceback" not in str(seen["log"])


def test_the_libraries_were_unpacked_once_and_are_whole(seen: dict[str, object]) -> None:
    """Below the user's own cache, and nowhere else in the home."""
    assert ", whole" in str(seen["again"])
    assert str(seen["cache"]).count("(of this file)") == 1
    home = seen["home"]
    assert isinstance(home, Path)
    assert [path.name for path in (home / ".cache").iterdir()] == ["kuwa"]


def test_the_papers_name_every_library(seen: dict[str, object], backend: str) -> None:
    """The bill of materials has a hash for each; the licences' texts are there."""
    file = seen["file"]
    assert isinstance(file, Path)
    bill = json.loads(file.with_name(f"{file.name}.cdx.json").read_text(encoding="utf-8"))
    names = {one["name"].lower().replace("_", "-") for one in bill["components"]}
    assert {"huggingface": "torch", "llamacpp": "llama-cpp-python"}[backend] in names
    assert all(component["hashes"] for component in bill["components"])
    paper = file.with_name(f"{file.name}.licenses.txt").read_text(encoding="utf-8")
    assert paper.count("MIT License") > 1
