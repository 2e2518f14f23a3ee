"""The worst case, computed before "ready"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

from backends.llamacpp import LlamacppExecutor
from backends.llamacpp.batching.token_batch import SequenceChunk
from backends.llamacpp.device import worst_case
from kuwa_min.errors import StartError
from tests.support.models import tiny_ggufs

TOLERANCE = 1e-4  # of logits


class Context:
    """A context that keeps what it is told to compute.

    seconds: of a batch by its tokens, beside `cold`, which the first one of each size takes more.
    """

    def __init__(
        self,
        slots: int,
        capacity: int,
        failure: Exception | None = None,
        *,
        seconds: float = 0,
        cold: float = 0,
    ) -> None:
        self.sequence_lengths, self.capacity, self.batch_tokens = [0] * slots, capacity, 2048
        self.computed: list[tuple[int, ...]] = []
        self.now = 0.0
        self._failure, self._seconds, self._cold = failure, seconds, cold

    def decode(self, chunks: Sequence[SequenceChunk]) -> None:
        """Compute nothing."""
        if self._failure:
            raise self._failure
        counts = tuple(len(chunk.tokens) for chunk in chunks)
        self.now += self._seconds * sum(counts) + self._cold * (counts not in self.computed)
        self.computed.append(counts)
        for chunk in chunks:
            self.sequence_lengths[chunk.slot] += len(chunk.tokens)
            assert self.sequence_lengths[chunk.slot] <= self.capacity

    def clear(self) -> None:
        """Empty all slots."""
        self.sequence_lengths = [0] * len(self.sequence_lengths)


SMALL = [1, 1, 8, 8, 64, 64, 512, 512]


@pytest.mark.parametrize(
    ("capacity", "seconds", "cold", "filled"),
    [
        (256, 0, 0, [*SMALL[:6], 109]),
        (4096, 0.0001, 1, [*SMALL, 2048, 877]),  # compiles each size for a second
        (65536, 0.001, 0, [*SMALL, *[2048] * 4]),
        (4096, 0.02, 0, SMALL[:6]),  # 50 tokens a second
        (4096, 2, 0, SMALL[:2]),
        (4096, 9, 0, SMALL[:1]),
        (4096, 60, 0, SMALL[:1]),
    ],
)
def test_a_slot_is_filled_and_all_decode(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capacity: int,
    seconds: float,
    cold: float,
    filled: list[int],
) -> None:
    """By full batches, for ten seconds or the first token's; the context is left empty."""
    caplog.set_level("INFO")
    context: Any = Context(3, capacity, seconds=seconds, cold=cold)
    monkeypatch.setattr(worst_case.time, "perf_counter", lambda: context.now)
    worst_case.compute(context)
    assert context.computed == [*((count,) for count in filled), (1, 1, 1)]
    assert context.sequence_lengths == [0, 0, 0]
    assert context.now - 3 * seconds - cold < max(worst_case.SECONDS, seconds + 0.1)
    is_full = sum(filled) == capacity - 1
    assert is_full != (f"with {sum(filled)} of a chat's {capacity} tokens" in caplog.text)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (MemoryError(), "not enough memory"),
        (MemoryError("llama_decode() returned -2"), "llama_decode() returned -2"),
        (RuntimeError("llama_decode() returned -3"), "llama_decode() returned -3"),
    ],
)
def test_what_does_not_fit_is_one_line(failure: Exception, reason: str) -> None:
    """With what to lower."""
    context: Any = Context(3, 4096, failure)
    with pytest.raises(StartError) as refused:
        worst_case.compute(context)
    assert str(refused.value) == (
        f"the longest chats cannot be computed: {reason}; lower --context_window, "
        "--concurrent_req_limit or --ngl"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the library's own
@pytest.mark.parametrize("architecture", ["llama", "mamba", "lfm2", "gemma2"])
def test_llama_computes_it(load: Any, tmp_path: Path, architecture: str) -> None:
    """The library takes every batch of it, and computes the same as before afterwards."""
    path = tiny_ggufs.write_gguf(tmp_path / "tiny.gguf", architecture)
    options = ("--context_window", 1024, "--concurrent_req_limit", 3, "--threads", 1)
    executor = load(LlamacppExecutor, "--model_path", path, *options).executor
    context = executor.engine._scheduler._context
    prompt = [SequenceChunk(1, [5, 6, 7], True)]
    before = context.decode(prompt).logits.copy()
    worst_case.compute(context)
    assert context.sequence_lengths == [0] * 3
    assert abs(context.decode(prompt).logits - before).max() < TOLERANCE
