"""The choice of graphics cards: what --cuda means to which backend, and what has no meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.build_options import build_parser
from kuwa_min.packing.libraries.cards import Cards

PACKAGES = {
    "huggingface": {"torch", "transformers"},
    "llamacpp": {"llama-cpp-python"},
    "debug": set[str](),
    "both": {"torch", "llama-cpp-python"},  # a custom executor
}


def check(line: str) -> Cards:
    """Check the options of a command line."""
    options = build_parser().parse_args(line.split())
    cards = Cards.of(options)
    cards.check({name: PACKAGES[name] for name in options.backend})
    return cards


@pytest.mark.parametrize(
    ("line", "torch"),
    [
        ("debug llamacpp huggingface", ""),
        ("llamacpp --cuda", ""),
        ("llamacpp --cuda 90", ""),
        ("llamacpp --cuda 75-real,90", ""),
        ("huggingface --cuda cu128", "cu128"),
        ("huggingface --cpu", "cpu"),
        ("both --cuda cu128", "cu128"),
        ("both --cuda 90", ""),
        ("both --cpu --vulkan", "cpu"),
    ],
)
def test_cuda_names_architectures_or_a_build_of_torch(line: str, torch: str) -> None:
    """The value says which; without one it is for llama.cpp."""
    assert check(line).torch_variant == torch


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("huggingface --cuda", "'' names no build of torch: say which, such as cu128"),
        ("huggingface --cuda 90", r"'90' names no build of torch: .*for build.py llamacpp --cuda"),
        ("llamacpp --cuda cu128", "takes no torch along: leave --cuda out; build.py llamacpp --cu"),
        ("llamacpp --cuda sm_90", "'sm_90' is no architecture"),
        ("llamacpp huggingface --cuda 90", "'90' names no build of torch"),
        ("debug llamacpp --cuda 90", "debug takes no llama.cpp along: leave --cuda out$"),
        ("huggingface --vulkan", "huggingface takes no llama.cpp along: leave --vulkan out$"),
        ("huggingface --llama_index URL", "takes no llama.cpp along: leave --llama_index out$"),
        ("huggingface llamacpp --cpu", "llamacpp takes no torch along: leave --cpu out$"),
        ("llamacpp --driver 550", "llamacpp takes no torch along: leave --driver out$"),
        ("huggingface --driver 390", "--driver 390 is too old for every CUDA that torch"),
        ("llamacpp --cuda 90 --vulkan", "choose one"),
        ("llamacpp --cuda --cpu", "cannot both be"),
        ("llamacpp --llama_index URL --cuda", "takes what others compiled: leave --cuda out"),
        ("llamacpp --llama_index URL --vulkan", "takes what others compiled: leave --vulkan out"),
        ("huggingface --driver 580 --cpu", "leave --cpu and --cuda out"),
        ("huggingface --driver 580 --cuda cu128", "leave --cpu and --cuda out"),
        ("llamacpp --slow_shaders", "--slow_shaders goes with --vulkan"),
    ],
)
def test_a_choice_without_meaning_is_refused(line: str, reason: str) -> None:
    """In a line that says what is meant."""
    with pytest.raises(UsageError, match=reason):
        check(line)


def test_what_is_compiled_for_cards_is_found(tmp_path: Path) -> None:
    """Nothing is, unless it is asked for, and nothing for torch."""
    for line in ("llamacpp", "huggingface --cuda cu128"):
        assert check(line).backend_of_ggml(tmp_path) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VULKAN_SDK", str(tmp_path))
        with pytest.raises(UsageError, match="--vulkan needs Vulkan's headers"):
            check("llamacpp --vulkan").backend_of_ggml(tmp_path)
        patch.setenv("CXX", "none")
        with pytest.raises(UsageError, match="nvcc needs gcc"):
            check("llamacpp --cuda 90").backend_of_ggml(tmp_path)
