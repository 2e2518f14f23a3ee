"""The real files with the real libraries: carried to a machine without internet, run there."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.load.machines import HeavyFile, Machine
from tests.support.models import real_models
from tests.support.programs import ROOT, START_TIMEOUT, Program, chat_through

pytestmark = pytest.mark.slow
OPTIONS = {
    "huggingface": ("--generation_kwargs", "max_new_tokens=24", "--no_system_prompt"),
    "llamacpp": ("--max_tokens", "24", "--temperature", "0", "--no_system_prompt"),
}
MODELS = {"huggingface": "tiny", "llamacpp": "tiny.gguf"}
DOCUMENTS = ("cdx.json", "licenses.txt")
MAKE = """
import pathlib, sys
from tests.support.models import tiny_models
backend, path = sys.argv[1], pathlib.Path(sys.argv[2])
write = {"huggingface": tiny_models.write_folder, "llamacpp": tiny_models.write_gguf}
write[backend](path)
"""


@pytest.fixture(scope="module", params=[*OPTIONS])
def backend(request: pytest.FixtureRequest) -> str:
    """Give each backend."""
    return str(request.param)


@pytest.fixture(scope="module")
def file(backend: str, heavy: Callable[[str], HeavyFile]) -> HeavyFile:
    """Give its real file."""
    return heavy(backend)


@pytest.fixture(scope="module")
def machine(backend: str, file: HeavyFile, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Carry the file and a tiny real model over, made with the libraries of the file itself."""
    model = tmp_path_factory.mktemp("model") / MODELS[backend]
    file.run_python("-c", MAKE, backend, model)
    return Machine(tmp_path_factory.mktemp("another machine"), file.path, model)


@pytest.fixture(scope="module")
def seen(backend: str, file: HeavyFile, machine: Machine) -> dict[str, Any]:
    """Run the client there; return what it saw."""
    words = (backend, machine.place / MODELS[backend], *OPTIONS[backend])
    return machine.run("single_chat", machine.place / file.path.name, *words)


def test_the_machine_is_found_fit_before_anything_is_written(seen: dict[str, Any]) -> None:
    """Every line of --check is good; nothing was unpacked by it."""
    lines = str(seen["check"]).splitlines()
    assert lines
    assert [line for line in lines if line.startswith("refusal")] == []
    assert "nothing is unpacked yet" in str(seen["verify"])


def test_users_chat_with_the_model(seen: dict[str, Any]) -> None:
    """Through the embedded Kernel, twice, with the same greedy answer; then it ends cleanly."""
    first, second = seen["answers"]
    assert len(first) >= 12
    assert first == second
    assert seen["code"] == 0
    assert "Traceback" not in str(seen["log"])


def test_the_libraries_were_unpacked_once_and_are_whole(
    seen: dict[str, Any], machine: Machine
) -> None:
    """Below the user's own cache; nothing was written anywhere else."""
    assert ", whole" in str(seen["again"])
    assert str(seen["cache"]).count("(of this file)") == 1
    assert machine.left_overs() == []


def test_the_documents_name_every_library(file: HeavyFile, backend: str) -> None:
    """The bill of materials has a hash for each; the licences' texts are there."""
    documents = {end: file.path.with_name(f"{file.path.name}.{end}") for end in DOCUMENTS}
    bill = json.loads(documents["cdx.json"].read_text(encoding="utf-8"))
    names = {one["name"].lower().replace("_", "-") for one in bill["components"]}
    assert {"huggingface": "torch", "llamacpp": "llama-cpp-python"}[backend] in names
    assert all(component["hashes"] for component in bill["components"])
    document = documents["licenses.txt"].read_text(encoding="utf-8")
    assert document.count("MIT License") > 1


def make_demo(*variables: str) -> list[str]:
    """Return the commands of `make demo`, run without what others ran before."""
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", "demo", *variables]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.replace("\\\n", "").splitlines()


def test_the_demo_installs_what_builds_need_and_no_more() -> None:
    """No torch, and nothing of the tests."""
    installed = [one for one in make_demo() if " pip " in one or "/pip " in one]
    assert installed == [".venv/bin/pip install --quiet --editable '.[build]'"]


def test_the_demo_answers(heavy: Callable[[str], HeavyFile], tmp_path: Path) -> None:
    """What `make demo` runs, with the file that was built already; its last line is the page."""
    model = real_models.gguf_file(real_models.SMOLLM2)
    command = make_demo("KERNEL=127.0.0.1:0", f"DEMO_MODEL={model}")[-1]
    _, file, *words = shlex.split(command, comments=True)
    assert file == "dist/kuwa-llamacpp.pyz"
    path = str(heavy("llamacpp").path)
    environment = {"KUWA_MIN_ROOT": str(tmp_path / "cache")}
    words += ["--temperature", "0", "--max_tokens", "32"]  # the same words each time, and few
    with Program(*words, command=(sys.executable, path), **environment) as program:
        last = r"registered as llamacpp: chat at http://127.0.0.1:\d+/\n(?!.* INFO )"
        program.wait_for(last, START_TIMEOUT)
        answer = chat_through(program.kernel_url, "llamacpp", "What is 2+2?")
    assert "4" in answer
