"""Graphics cards that are asked for, with the real library, a stub of a backend and of a driver."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import tiny_models
from tests.support.programs import ROOT

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

COMPILER = shutil.which("cc")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler"),
]
CHECK = """
import logging, sys
from backends.llamacpp import bindings
from backends.llamacpp.device import devices

logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
bindings.prepare()
try:
    shares = [float(share) for share in sys.argv[3].split(",") if share]
    if sys.argv[1] == "auto":
        print(devices.can_use_cards(sys.argv[2] or None, shares))
    else:
        devices.check(int(sys.argv[1]), sys.argv[2] or None, shares)
        print("passed")
except Exception as error:
    print(type(error).__name__, error, sep=": ")
"""
LOAD = """
import argparse, json, pathlib, sys
from backends._local.prompt_cache.settings import CacheSettings
from backends.llamacpp.batching.context_params import ContextOptions
from backends.llamacpp.model import LlamaModel
from backends.llamacpp.scheduler_factory import create_scheduler

model = LlamaModel(
    pathlib.Path(sys.argv[1]),
    lambda done, total: None,
    gpu_layers=0,
    visible_gpu=None,
    tensor_split=[],
    context_length=256,
    context_options=ContextOptions(1, flash_attn="off", cache_type="f32"),
)
off = argparse.Namespace(prompt_cache=0, prompt_cache_dir=None, reproducible=False)
create_scheduler(model, 2, CacheSettings(off), reproducible=False)
print(json.dumps(model.info()))
"""
# A backend with one card, which computes nothing. The layout is that of ggml-backend-impl.h.
BACKEND = """
#include <stddef.h>
typedef const void *p;
static const char *card(p d) { return "CUDA0"; }
static const char *title(p d) { return "Tesla V100"; }
static int kind(p d) { return 1; }
static const char *name(p r) { return "CUDA"; }
static size_t count(p r) { return CARDS; }
static p get(p r, size_t n);
static void *none(p r, const char *n) { return NULL; }
static struct { int version; p functions[4]; p context; } registry =
    {2, {name, count, get, none}, NULL};
static struct { p functions[15]; p registry; p context; } device =
    {{card, title, NULL, kind}, &registry, NULL};
static p get(p r, size_t n) { return &device; }
extern int cuInit(unsigned);
extern void ggml_log_internal(int level, const char *format, ...);
p ggml_backend_init(void) {
    cuInit(0);
    if (!CARDS) ggml_log_internal(4, "failed to initialize CUDA: no device\\n");
    return &registry;
}
"""
DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strcpy(name, "Tesla V100"); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 7 : 0; return 0; }
"""  # noqa: E501 - C
IDLE = "the processor computes, in a build for graphics cards:"
NO_CODE = (
    "StartError: --ngl -1 asks for a GPU, but CUDA0 (Tesla V100) has the compute capability 7.0, "
    "and this file has code for 7.5, 9.0 and newer; one that computes on it is made by "
    "build.py llamacpp --vulkan; --ngl 0 computes on the processor\n"
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a copy of llama_cpp that has a backend called CUDA, and a driver in another folder."""
    folder = tmp_path_factory.mktemp("site")
    own = Path(llama_cpp.__file__).parent
    if not list((own / "lib").glob("libggml-cpu-*.so")):
        pytest.skip("this build of llama.cpp is linked with its backend")
    (folder / "llama_cpp/lib").mkdir(parents=True)
    (folder / "driver").mkdir()
    for path in (*own.glob("*.py"), *own.glob("lib/*.so*")):
        (folder / "llama_cpp" / path.relative_to(own)).symlink_to(path)
    _compile(DRIVER, folder / "driver/libcuda.so.1", "-Wl,-soname,libcuda.so.1")
    for cards in (0, 1):
        driver = str(folder / "driver/libcuda.so.1")
        library = folder / f"libggml-cuda-{cards}.so"
        needed = ("-Wl,--no-as-needed", driver, str(own / "lib/libggml-base.so"))
        _compile(BACKEND, library, f"-DCARDS={cards}", *needed)
    return folder


def _compile(source: str, library: Path, *flags: str) -> None:
    command = [str(COMPILER), "-shared", "-fPIC", "-w", "-o", str(library), "-xc", "-"]
    command += ["-x", "none", *flags]
    subprocess.run(command, input=source, text=True, check=True)


def check(
    package: Path, ngl: str, visible: str, split: str = "", *, cards: int = 1, **more: Any
) -> str:
    """Return what is said about --ngl, --visible_gpu and --tensor_split."""
    return run(package, CHECK, ngl, visible, split, cards=cards, **more)


def run(
    package: Path, program: str, *words: str, cards: int = 1, driver: bool = True, archs: str = ""
) -> str:
    """Return the output of a program in a process of its own with `cards` GPUs."""
    library = package / "llama_cpp/lib/libggml-cuda.so"
    library.unlink(missing_ok=True)
    library.symlink_to(package / f"libggml-cuda-{cards}.so")
    library.with_suffix(".architectures").write_text(archs, encoding="ascii")
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"}
    environment["LD_LIBRARY_PATH"] = str(package / "driver") if driver else ""
    command = [sys.executable, "-c", program, *words]
    return subprocess.check_output(command, env=environment, text=True)


@pytest.mark.parametrize(
    ("ngl", "visible", "split", "archs", "said"),
    [
        ("-1", "", "3,0", "70-real\n", "passed\n"),
        ("-1", "", "", "75-real\n90\n", NO_CODE),
        (
            "-1",
            "",
            "0,0.5",
            "",
            "StartError: --tensor_split 0,0.5 is for 2 graphics cards; llama.cpp uses 1 here: "
            "CUDA0 (Tesla V100)\n",
        ),
        (
            "-1",
            "0,1",
            "",
            "",
            "StartError: --visible_gpu 0,1 names 2 graphics cards; here is 1 of them: "
            "CUDA0 (Tesla V100)\n",
        ),
        (
            "0",
            "0,1",
            "3,1",
            "75-real\n",
            "a graphics card is here and not used: CUDA0 (Tesla V100); --ngl -1 uses it\npassed\n",
        ),
        ("auto", "", "", "70-real\n", "True\n"),
        ("auto", "0", "1", "70-real\n", "True\n"),
        (
            "auto",
            "",
            "",
            "75-real\n90\n",
            NO_CODE.replace("StartError: --ngl -1 asks for a GPU, but", IDLE).replace(
                "; --ngl 0 computes on the processor\n", "\nFalse\n"
            ),
        ),
        (
            "auto",
            "0",
            "",
            "75-real\n90\n",
            NO_CODE.replace("--ngl -1 asks", "--visible_gpu asks"),
        ),
    ],
)
def test_a_card_that_is_here(
    package: Path, ngl: str, visible: str, split: str, archs: str, said: str
) -> None:
    """It is used where the library has code for it; idle, it is named once."""
    assert check(package, ngl, visible, split, archs=archs) == said


def test_a_library_without_its_driver_is_named(package: Path) -> None:
    """With what the system says; without --ngl it is no error."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        said = check(package, "7", "", driver=False)
        assert said == (
            "StartError: --ngl 7 asks for a GPU, but libggml-cuda.so cannot be loaded: "
            "libcuda.so.1: cannot open shared object file: No such file or directory (no NVIDIA "
            "driver is here); --ngl 0 computes on the processor\n"
        )
        assert check(package, "0", "", driver=False) == "passed\n"
        reason = said.partition("but ")[2].partition("; --ngl")[0]
        assert check(package, "auto", "", driver=False) == f"{IDLE} {reason}\nFalse\n"
        assert check(package, "0", "", "1,1", driver=False) == (
            "--tensor_split has no effect here: the processor computes\npassed\n"
        )
    else:
        pytest.skip("a driver is here")


@pytest.mark.parametrize(("visible", "limit"), [("", ""), ("7", " (--visible_gpu 7)")])
def test_a_driver_without_a_card_is_said(package: Path, visible: str, limit: str) -> None:
    """With the option that may be the reason, and what llama.cpp logged."""
    assert check(package, "-1", visible, cards=0) == (
        "StartError: --ngl -1 asks for a GPU, but llama.cpp was built for CUDA and finds no such "
        f"device here{limit}: failed to initialize CUDA: no device; --ngl 0 computes on "
        "the processor\n"
    )


def test_without_layers_a_card_is_left_alone(package: Path, tmp_path: Path) -> None:
    """Also by long prompts and by the check at the start; this card would end the process."""
    model = tiny_models.write_gguf(tmp_path / "tiny.gguf")
    facts = json.loads(run(package, LOAD, str(model)))
    assert facts["device"].startswith("CPU (")
    assert "gpu_layers" not in facts
    assert facts["memory_mb"].keys() <= {"CPU", "CPU_Mapped", "CPU_REPACK"}
    assert facts["memory_mb"]["CPU"].keys() >= {"kv", "compute"}
