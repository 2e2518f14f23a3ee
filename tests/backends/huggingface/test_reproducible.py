"""With --reproducible, equal requests get equal answers from a 16-bit model, to the last bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backends.huggingface import HuggingfaceExecutor
from tests.support.batched_chats import Chats, LogitRecorder, in_every_company

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
pytest.importorskip("transformers", reason="and transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
QUESTION = "Tell me about the sea, the ships and the lighthouse. " * 12
DRAWN = {"do_sample": "true", "temperature": 1}
OPTIONS: tuple[dict[str, Any], ...] = ({"do_sample": "false"}, {**DRAWN, "seed": 7}, DRAWN)
DTYPES = ("bfloat16", "float32")
NAMES = ("llama", "qwen2", "gemma3_text", "mixtral")


@pytest.fixture
def start(load: Any) -> Callable[..., Chats]:
    """Give what loads a folder into an executor with three slots."""

    def make(path: Path, *options: object) -> Chats:
        given = ("--model_path", path, "--concurrent_req_limit", 3, *options)
        return Chats(load(HuggingfaceExecutor, *given).executor)

    return make


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> LogitRecorder:
    """Record the logits of all requests."""
    from backends.huggingface import reproducible, scheduler
    from backends.huggingface.batching import forward_passes

    return LogitRecorder(monkeypatch, scheduler, reproducible, forward_passes)


@pytest.mark.parametrize(("name", "options"), [*zip(NAMES, itertools.cycle(OPTIONS), strict=False)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_requests_get_equal_answers(
    dtype: str,
    name: str,
    options: dict[str, Any],
    folder: Any,
    start: Any,
    recorder: LogitRecorder,
) -> None:
    """Cold, after others, beside others, after an abort; greedy, with a seed and without one."""

    def create(chats: Chats) -> Any:
        return chats.create(QUESTION, max_new_tokens=12, **options)

    given = (folder(name, max_position_embeddings=4096), "--reproducible", "--dtype", dtype)
    fresh = start(*given)
    cold = recorder.of(fresh.submit(create(fresh)))
    talk = start(*given)
    for company, answer in in_every_company(talk, recorder, lambda: create(talk)).items():
        assert answer == cold, company
    assert len(cold[1]) == 12
    assert talk.executor.engine.description == "3 at once, each computed alone"


def test_without_the_option_company_changes_the_last_bits(
    folder: Any, start: Any, recorder: LogitRecorder
) -> None:
    """So that the test above would fail without it; with one of the types on each processor."""
    found = []
    for dtype in DTYPES:
        talk = start(folder("llama", max_position_embeddings=4096), "--dtype", dtype)
        create = partial(talk.create, QUESTION, max_new_tokens=12)
        answers = in_every_company(talk, recorder, create)
        found.append(len({tuple(logits) for _, logits in answers.values()}))
    assert max(found) > 1


def test_requests_without_a_seed_have_one(folder: Any, start: Any) -> None:
    """0; other seeds are honoured."""
    talk = start(
        folder("llama", max_position_embeddings=4096), "--reproducible", "--max_new_tokens", 12
    )

    def ask(**seed: int) -> str:
        return str(talk.ask("Hi", **DRAWN, **seed).whole())

    assert ask() == ask() == ask(seed=0)
    assert ask(seed=1) == ask(seed=1) != ask()
