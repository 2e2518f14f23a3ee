"""With --reproducible, equal requests get equal answers, to the last bit of the logits.

The last bits differ with 32-bit weights already, other tokens with quantised ones of a real model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.llamacpp import LlamacppExecutor
from tests.support.batched_chats import Chats, LogitRecorder, in_every_company
from tests.support.models import tiny_ggufs
from tests.support.models.real_models import SMOLLM2, gguf_file
from tests.support.models.tiny_ggufs import ARCHITECTURES

llama_cpp = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the library's own
]
REAL = "a real model in Q4_1"
QUESTION = "Tell me about the sea, the ships and the lighthouse. " * 25
DRAWN = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}
OPTIONS: tuple[dict[str, Any], ...] = ({"temperature": 0}, {**DRAWN, "seed": 7}, DRAWN)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give what makes the file of an architecture."""
    root = tmp_path_factory.mktemp("ggufs")
    return lambda name: tiny_ggufs.write_gguf(root / f"{name}.gguf", name, context=4096)


@pytest.fixture
def start(load: Any) -> Callable[..., Chats]:
    """Give what loads a file into an executor with three slots."""

    def make(path: Path, *options: object) -> Chats:
        given = ("--model_path", path, "--concurrent_req_limit", 3, "--threads", 1, *options)
        return Chats(load(LlamacppExecutor, *given).executor)

    return make


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> LogitRecorder:
    """Record the logits of all requests."""
    from backends.llamacpp import scheduler

    return LogitRecorder(monkeypatch, scheduler)


@pytest.mark.parametrize(
    ("name", "options"), [*zip((*ARCHITECTURES, REAL), itertools.cycle(OPTIONS), strict=False)]
)
def test_equal_requests_get_equal_answers(
    name: str, options: dict[str, Any], file: Any, start: Any, recorder: LogitRecorder
) -> None:
    """Cold, after others, beside others, after an abort; greedy, with a seed and without one."""

    def create(chats: Chats) -> Any:
        return chats.create(QUESTION, max_tokens=12, **options)

    path = gguf_file(SMOLLM2) if name is REAL else file(name)
    fresh = start(path, "--reproducible")
    cold = recorder.of(fresh.submit(create(fresh)))
    talk = start(path, "--reproducible")
    for company, answer in in_every_company(talk, recorder, lambda: create(talk)).items():
        assert answer == cold, company
    assert 1 < len(cold[1]) <= 12
    assert talk.executor.engine.description == "3 at once, each computed alone"


def test_without_the_option_company_changes_the_last_bits(
    file: Any, start: Any, recorder: LogitRecorder
) -> None:
    """So that the test above would fail without it."""
    talk = start(file("llama"))
    answers = in_every_company(
        talk, recorder, lambda: talk.create(QUESTION, max_tokens=12, temperature=0)
    )
    assert len({tuple(logits) for _, logits in answers.values()}) > 1


def test_requests_without_a_seed_have_one(file: Any, start: Any) -> None:
    """0, also where another one each time is asked for; other seeds are honoured."""
    talk = start(file("llama"), "--reproducible", "--max_tokens", 12)

    def ask(**seed: int) -> str:
        return str(talk.ask("Hi", **DRAWN, **seed).whole())

    assert ask() == ask() == ask(seed=0) == ask(seed=-1)
    assert ask(seed=1) == ask(seed=1) != ask()
