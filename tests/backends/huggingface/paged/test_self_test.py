"""The self-test of attention over pages: what is wrong is seen, and the model keeps sdpa."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.huggingface import HuggingfaceExecutor
from tests.support.models.tiny_architectures import Library

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
pytest.importorskip("transformers", reason="and transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("default"),  # the libraries' own
]


def without_pages(attention: Any, **given: Any) -> Any:
    """Read the first pages instead of the sequence's own."""
    table = given["block_table"]
    return attention(**{**given, "block_table": torch.arange(table.shape[1]).expand_as(table) + 1})


def without_window(attention: Any, **given: Any) -> Any:
    """See everything before a token."""
    return attention(**{**given, "window_size": (-1, 0)})


def aligned_at_the_top(attention: Any, **given: Any) -> Any:
    """Take a part of a prompt for its beginning."""
    counts = given["cu_seq_q"].diff().to(torch.int32)
    return attention(**{**given, "seqused_k": counts})


def without_mask(attention: Any, **given: Any) -> Any:
    """Let tokens attend to later ones."""
    return attention(**{**given, "window_size": (given["window_size"][0], -1)})


def of_processors(attention: Any, **given: Any) -> Any:
    """Be torch's own, which has no code for processors."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(**given)


@pytest.mark.parametrize(
    "wrong", [without_pages, without_window, aligned_at_the_top, without_mask, of_processors]
)
def test_a_wrong_kernel_is_not_used(
    wrong: Callable[..., Any],
    chats: Any,
    folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line says so; every answer is the library's."""
    from backends.huggingface.paged import self_test
    from backends.huggingface.paged.kernels import ARGUMENTS, reference

    def kernel(*args: Any, **options: Any) -> Any:
        return wrong(reference, **dict(zip(ARGUMENTS, args, strict=False)), **options)

    monkeypatch.setattr(self_test, "kernel", lambda model: kernel)
    with caplog.at_level(logging.INFO):
        talk = chats(folder("gemma3_text"))
    (line,) = [one for one in caplog.messages if "over pages" in one]
    assert line.startswith("attention is not computed over pages: ")
    assert talk.executor.model.text_config._attn_implementation == "sdpa"
    answer = talk.ask("Hello", max_new_tokens=9).whole()
    assert answer == Library(folder("gemma3_text")).answer("Hello", max_new_tokens=9)


def test_a_gpu_that_the_test_loses_is_said_with_the_option_that_leaves_it_out(
    load: Any,
    folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The process cannot go on; the next one could."""
    from backends.huggingface.batching_check import examine
    from backends.huggingface.device.errors import DeviceLost
    from backends.huggingface.paged import self_test

    def kernel(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    model: Any = load(HuggingfaceExecutor, "--model_path", folder("llama")).executor.model
    layout = examine(model)
    monkeypatch.setattr(self_test, "kernel", lambda model: kernel)
    with pytest.raises(DeviceLost, match="illegal memory access"):
        self_test.paged_layout(model, layout)  # type: ignore[arg-type]
    assert "--paged_attention off leaves it out" in caplog.text
