"""The end of the process where llama.cpp would abort it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.models import tiny_ggufs
from tests.support.programs import Program, fetch, said

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

from backends.llamacpp import fatal_errors

RESTART = "a new process can, which systemd starts where the unit has Restart=on-failure"
LOWER = "if it happens again, lower --context_window, --concurrent_req_limit or --ngl"
# The program, with a decode() that fails for real once a chat is answered.
PROGRAM = """
import ctypes, sys
import llama_cpp
from backends.llamacpp.batching.context import LlamaContext
from kuwa_min import cli

compute, fail = LlamaContext.decode, sys.argv.pop(1)

def decode(context, chunks):
    if max(map(len, (chunk.tokens for chunk in chunks))) < 99:
        return compute(context, chunks)
    if fail == "exception":
        ctypes.CDLL("libstdc++.so.6")._ZSt17__throw_bad_allocv()
    llama_cpp.llama_memory_seq_cp(context._memory, 0, 1, 0, 2)  # a part of a sequence

LlamaContext.decode = decode
sys.argv[0] = "kuwa"
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("message", "first_error", "line"),
    [
        (
            "/src/ggml/ggml-cuda.cu:103: CUDA error\n",
            "CUDA error: out of memory",
            "llama.cpp cannot go on: CUDA error: out of memory (ggml-cuda.cu:103: CUDA error); "
            f"{RESTART}; {LOWER}",
        ),
        (
            "/a b/c/llama.cpp:7: GGML_ASSERT(is_full)",
            "",
            f"llama.cpp cannot go on: /a b/c/llama.cpp:7: GGML_ASSERT(is_full); {RESTART}",
        ),
        (
            "the exception vk::OutOfDeviceMemoryError",
            "",
            f"llama.cpp cannot go on: the exception vk::OutOfDeviceMemoryError; {RESTART}; {LOWER}",
        ),
    ],
)
def test_the_line_has_the_cause_and_what_to_do(message: str, first_error: str, line: str) -> None:
    """What llama.cpp logged of the cause comes first; where memory is short, what to lower."""
    assert fatal_errors.describe(message, first_error) == line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("abort", r"llama-kv-cache\.cpp:\d+: .*"),
        ("exception", f"the exception std::bad_alloc; {RESTART}; {LOWER}"),
    ],
)
def test_a_real_one_ends_the_process_in_order(tmp_path: Path, failure: str, reason: str) -> None:
    """The chat gets its end, the Kernel is told, a line says why; no stack, no core dump."""
    gguf = tiny_ggufs.write_gguf(tmp_path / "tiny.gguf", "llama")
    options = ["llamacpp", "--model_path", str(gguf), "--concurrent_req_limit", "2", "--port", "0"]
    options += ["--embedded_kernel", "127.0.0.1:0", "--max_tokens", "4"]
    command = (sys.executable, "-W", "ignore", "-c", PROGRAM, failure)
    with Program(*options, command=command) as program:
        url = program.url
        assert fetch(url, said("x"))[0] == 200
        program.wait_for("registered")
        answer = fetch(url, said("x" * 300))[1]
        assert program.end() == 1
    assert "Error occurred" in answer
    assert re.search(
        f"CRITICAL .*: llama.cpp cannot go on: {reason}; the process ends", program.log
    )
    assert "unregistered" in program.log
    assert program.lines[-1].startswith("kuwa llamacpp: error: llama.cpp cannot go on: ")
