"""The comparison of numbers of threads, with a real model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the huggingface backend needs it")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the library's own
]


@pytest.fixture
def as_before() -> Iterator[None]:
    """Leave torch's threads as they are."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("as_before")
def test_threads_are_compared_beside_chats(
    folder: Callable[..., Path], chats: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model whose slots hold a chat; an abort leaves all as it was."""
    import torch

    from backends._local.machine import processors
    from backends.huggingface.device import speed_tests
    from backends.huggingface.model import Aborted

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processors, "candidates", lambda: [1, 2])
    monkeypatch.setattr(speed_tests, "SECONDS", math.inf)  # all rounds, on a busy machine, too
    talk = chats(folder("llama"))
    scheduler = talk.executor.engine._scheduler
    answer = talk.ask("Hello").whole()
    held = [list(one.tokens) for one in scheduler._slots._sequences]
    tests = scheduler.measurement
    pieces = tests.measure()
    next(pieces)
    tests.abort()
    with pytest.raises(Aborted):
        list(pieces)
    assert tests.decide() == ""
    before = scheduler._threads.chosen
    assert torch.get_num_threads() == before.decode
    assert len(list(tests.measure())) > 4
    assert set(tests._timings.decode) == set(tests._timings.prefill) == {1, 2}
    monkeypatch.setattr(tests, "_timings", type(tests._timings)({1: 1.0, 2: 0.5}, {1: 0.5, 2: 1.0}))
    tests.decide()
    assert scheduler._threads.chosen == (2, 1)
    assert [list(one.tokens) for one in scheduler._slots._sequences] == held
    assert talk.ask("Hello").whole() == answer
    assert torch.get_num_threads() in (1, 2)


def test_given_threads_are_not_compared(
    folder: Callable[..., Path], chats: Callable[..., Any]
) -> None:
    """Nor those of --reproducible, whose sums must not change."""
    given = chats(folder("llama"), "--threads", 1).executor.engine._scheduler
    assert given.measurement is None
    assert given._threads.chosen == (1, 1)
    assert chats(folder("llama"), "--reproducible").executor.engine._scheduler.measurement is None
