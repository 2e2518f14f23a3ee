"""The last line before llama.cpp ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.models import tiny_ggufs
from tests.support.programs import ROOT

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

from backends.llamacpp import fatal_errors

PROGRAM = """
import ctypes, logging, sys
from pathlib import Path
from backends.llamacpp.context import ContextOptions, SequenceChunk
from backends.llamacpp.model import LlamaModel
import llama_cpp

logging.basicConfig(format="%(levelname)s %(message)s")
model = LlamaModel(
    Path(sys.argv[1]), lambda done, total: None, gpu_layers=0, visible_gpu=None, tensor_split=(),
    context_length=256, context_options=ContextOptions(1, flash_attn="off", cache_type="f16"),
)
context = model.create_context(2)
context.decode([SequenceChunk(0, [1, 2, 3], True)])
llama_cpp.llama_memory_seq_cp(context._memory, 0, 1, 0, 2)  # a part of a sequence
"""


@pytest.mark.parametrize(
    ("message", "first_error", "line"),
    [
        (
            "/src/ggml/ggml-cuda.cu:103: CUDA error\n",
            "CUDA error: out of memory",
            "llama.cpp ends the process: CUDA error: out of memory (ggml-cuda.cu:103: CUDA error); "
            "its service unit restarts it; if it happens again, lower --context_window, "
            "--concurrent_req_limit or --ngl",
        ),
        (
            "/a b/c/llama.cpp:7: GGML_ASSERT(is_full)",
            "",
            "llama.cpp ends the process: /a b/c/llama.cpp:7: GGML_ASSERT(is_full); its service "
            "unit restarts it",
        ),
    ],
)
def test_the_line_has_the_cause_and_what_to_do(message: str, first_error: str, line: str) -> None:
    """What llama.cpp logged of the cause comes first; where memory is short, what to lower."""
    assert fatal_errors.describe(message, first_error) == line


@pytest.mark.slow
def test_a_real_abort_leaves_one_line(tmp_path: Path) -> None:
    """And no stack, whether gdb is here or not."""
    gguf = tiny_ggufs.write_gguf(tmp_path / "tiny.gguf", "llama")
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(gguf)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("GGML_NO_BACKTRACE", None)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGABRT
    said = [line for line in ended.stderr.splitlines() if not line.startswith("WARNING")]
    assert len(said) == 1
    assert said[0].startswith("CRITICAL llama.cpp ends the process: llama-kv-cache.cpp:")
    assert said[0].endswith("; its service unit restarts it")
