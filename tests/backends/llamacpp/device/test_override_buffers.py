"""Tensor overrides as llama.cpp applies them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from backends.llamacpp import LlamacppExecutor
from backends.llamacpp.loading.tensor_overrides import TensorOverride, parse
from kuwa_min.errors import StartError
from tests.support import local_chats
from tests.support.models import tiny_ggufs
from tests.support.models.tiny_ggufs import Library

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

from backends.llamacpp import bindings  # noqa: E402 - needs the library
from backends.llamacpp.device import override_buffers  # noqa: E402 - as above
from backends.llamacpp.loading.gguf_model import load as load_file  # noqa: E402 - as above

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the library's own
]
GREEDY = ("--flash_attn", "off", "--cache_type", "f32", "--threads", 1, "--temperature", 0)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """Make a model of four experts in each of two layers."""
    bindings.prepare()
    return tiny_ggufs.write_gguf(tmp_path / "experts.gguf", "experts")


def place(gguf: Path, *overrides: TensorOverride) -> list[str]:
    """Load a model as if it went on cards; return what llama.cpp says of its tensors."""
    with bindings.LOG_CAPTURE.capturing() as log:
        how = {"gpu_layers": -1, "tensor_split": (), "overrides": overrides}
        llama_cpp.llama_model_free(load_file(gguf, lambda *_: None, **how))
    return [line.split()[1] for line in log if "buffer type overridden to CPU" in line]


def test_llama_cpp_puts_tensors_where_they_are_to_lie(gguf: Path) -> None:
    """By the first pattern that matches; none, where none does."""
    experts = [f"blk.1.ffn_{one}_exps.weight" for one in ("down", "gate", "up")]
    assert sorted(place(gguf, parse(r"blk\.1\.ffn.*exps=CPU"), parse("none=cpu"))) == experts
    assert place(gguf) == []


def test_a_pattern_that_only_python_reads_is_refused_in_a_line(gguf: Path) -> None:
    """With llama.cpp's reason."""
    with pytest.raises(StartError, match=r"cannot be loaded: .*regular expression"):
        place(gguf, parse("(?<=blk)exps=CPU"))


def test_without_cards_experts_are_computed_where_all_is(
    load: object, gguf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A line says that the options have no effect."""
    options = ("--model_path", gguf, *GREEDY, "--max_tokens", 12, "--cpu_moe")
    executor = load(LlamacppExecutor, *options, "--override_tensor", "attn=CPU").executor  # type: ignore[operator]
    answer, _ = local_chats.ask(executor, "Hello")
    assert answer == Library(gguf).answer("Hello", max_tokens=12)
    said = "without effect, as the processor computes all: --override_tensor attn=CPU, --cpu_moe"
    assert said in caplog.text


def test_a_device_that_is_not_here_is_refused(gguf: Path) -> None:
    """With those that are."""
    for layers in (0, -1):
        with pytest.raises(StartError, match=r"exps=CUDA7: CUDA7 computes nothing here, but CPU"):
            override_buffers.check(gguf, [parse("exps=CUDA7")], layers)


def test_what_matches_no_tensor_is_said(gguf: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Mistyped patterns, and options for experts of a model without any."""
    caplog.set_level(logging.WARNING)
    override_buffers.check(gguf, [parse("ffn_.*exps=CPU"), parse("fnn=CPU")], -1)
    assert "as no tensor has such a name: --override_tensor fnn=CPU" in caplog.text
