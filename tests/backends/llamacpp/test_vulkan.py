"""The offload path of llama.cpp for real: Vulkan on Mesa's software device, twice.

It computes slowly, and what it computes is what a card computes: only function is tested. The wheel
is the newest that `build.py llamacpp --vulkan` has made here; `make vulkan` makes one.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.models import tiny_ggufs
from tests.support.programs import ROOT, Program, fetch, said, until

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

pytestmark = pytest.mark.slow
DRIVERS = Path("/usr/share/vulkan/icd.d")
TEXTS = ("Name three colours.", "What is the capital?", "Count to five.", "The sea.")
EXACT = ("--flash_attn", "off", "--cache_type", "f32", "--temperature", "0", "--max_tokens", "12")
SPLIT = ("--ngl", "-1", "--tensor_split", "1,1", "--concurrent_req_limit", "4")
SURE = 8  # tokens, of one character each
START = 600  # seconds, on a busy machine; every kind of operation is compiled once


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model."""
    return tiny_ggufs.write_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", "llama")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what a program needs to find the wheel and two software devices, or skip."""
    wheels = sorted(ROOT.glob("build/wheels/ggml-vulkan-*/*.whl"), key=os.path.getmtime)
    if not wheels:
        pytest.skip("no wheel for Vulkan is in build/wheels: make vulkan")
    drivers = os.environ.get("VK_DRIVER_FILES") or ":".join(map(str, DRIVERS.glob("lvp*.json")))
    try:
        ctypes.CDLL("libvulkan.so.1")
    except OSError:
        pytest.skip("no libvulkan.so.1 is here (Debian: apt-get install libvulkan1)")
    if not drivers:
        pytest.skip("no software device is here (Debian: apt-get install mesa-vulkan-drivers)")
    folder = tmp_path_factory.mktemp("vulkan")
    with zipfile.ZipFile(wheels[-1]) as archive:
        archive.extractall(folder)
    return {
        "PYTHONPATH": str(folder),
        "VK_DRIVER_FILES": drivers,
        "VK_ICD_FILENAMES": drivers,  # of older loaders
        "GGML_VK_VISIBLE_DEVICES": "0,0",
    }


@pytest.fixture(scope="module")
def program(gguf: Path, environment: dict[str, str]) -> Iterator[Program]:
    """Start one that computes on both devices, layer by layer."""
    options = ("llamacpp", "--model_path", str(gguf), "--ignore_kernel", "--port", "0")
    with Program(*options, *EXACT, *SPLIT, "--log", "DEBUG", **environment) as started:
        started.wait_for("ready: ", START)
        yield started


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for answers as long as for the start."""
    monkeypatch.setattr(programs, "TIMEOUT", START)


def busy(program: Program) -> int:
    """Return how many chats are computed."""
    status = fetch(program.url.replace("/chat", "/status"))[1]
    return int(json.loads(status)["busy_slots"])


def ask(program: Program, text: str, answers: dict[str, str], path: str = "") -> None:
    """Keep the answer to a text."""
    answers[text] = fetch(program.url + path, said(text))[1]


def test_all_layers_are_on_two_devices(program: Program) -> None:
    """As --ngl -1 and --tensor_split ask; of three layers 3,1 would give the second none."""
    assert "offloaded 3/3 layers to GPU" in program.log
    assert "layer   0 assigned to device Vulkan0" in program.log
    assert "layer   2 assigned to device Vulkan1" in program.log
    assert "4 at once" in fetch(program.url.replace("/chat", "/status"))[1]


def test_chats_are_answered_as_on_the_processor(program: Program, gguf: Path) -> None:
    """Alone, and four together; far into an answer of random weights rounding tells."""
    processor = tiny_ggufs.Library(gguf)
    expected = {text: processor.answer(text, max_tokens=SURE) for text in TEXTS}
    alone: dict[str, str] = {}
    for text in TEXTS:
        ask(program, text, alone)
    together: dict[str, str] = {}
    paths = [f"/{number}" if number else "" for number in range(len(TEXTS))]
    chats = [
        threading.Thread(target=ask, args=(program, text, together, path))
        for text, path in zip(TEXTS, paths, strict=True)
    ]
    for chat in chats:
        chat.start()
    for chat in chats:
        chat.join()
    assert together == alone
    assert {text: answer[:SURE] for text, answer in alone.items()} == expected


def test_an_abort_frees_the_slot(program: Program, gguf: Path) -> None:
    """And the next chat is answered right."""
    form = said("x", modelfile=json.dumps([{"name": "parameter", "args": "llm_max_tokens 400"}]))
    chat = threading.Thread(target=fetch, args=(program.url, form))
    chat.start()
    until(lambda: busy(program) == 1)
    assert fetch(f"{program.url}/abort")[0] == 200
    until(lambda: busy(program) == 0)
    chat.join()
    answers: dict[str, str] = {}
    ask(program, "x", answers)
    assert answers == {"x": tiny_ggufs.Library(gguf).answer("x", max_tokens=12)}


def test_more_than_a_device_holds_is_one_line(gguf: Path, environment: dict[str, str]) -> None:
    """Of a tensor larger than 128 MiB llama.cpp would end the process."""
    options = ("llamacpp", "--model_path", str(gguf), "--ignore_kernel", "--port", "0")
    much = ("--ngl", "-1", "--context_window", "1048576", "--concurrent_req_limit", "4")
    with Program(*options, *much, **environment) as refused:
        assert refused.end() == 1
    assert "more than Vulkan0 can hold as one tensor; lower --context_window" in refused.log
