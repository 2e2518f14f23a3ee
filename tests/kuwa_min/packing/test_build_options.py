"""The options of build.py: what --cuda means to which backend."""

from __future__ import annotations

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.build_options import build_parser, check, sources_of


@pytest.mark.parametrize(
    ("line", "torch"),
    [
        ("llamacpp --cuda", ""),
        ("llamacpp --cuda 90", ""),
        ("llamacpp --cuda 75-real,90", ""),
        ("huggingface --cuda cu128", "cu128"),
        ("huggingface --cpu", "cpu"),
    ],
)
def test_cuda_names_architectures_or_a_build_of_torch(line: str, torch: str) -> None:
    """The former for llamacpp, the latter for others."""
    options = build_parser().parse_args(line.split())
    check(options)
    assert sources_of(options).torch_variant == torch


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("huggingface --cuda llamacpp", "name the backend first, as in build.py llamacpp"),
        ("huggingface --cuda", "'' names no build of torch"),
        ("huggingface --cuda 90", "'90' names no build of torch"),
        ("llamacpp --cuda cu128", "'cu128' is no architecture"),
        ("llamacpp huggingface --cuda 90", "build it by itself"),
        ("llamacpp --cuda 90 --vulkan", "choose one"),
        ("llamacpp --cuda --cpu", "cannot both be"),
        ("llamacpp --driver 580 --cuda", "leave --cpu and --cuda out"),
    ],
)
def test_a_cuda_without_meaning_is_refused(line: str, reason: str) -> None:
    """In a line that says what is meant."""
    with pytest.raises(UsageError, match=reason):
        check(build_parser().parse_args(line.split()))
