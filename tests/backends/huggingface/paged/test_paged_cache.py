"""Chats whose attention is computed over pages: each is answered as the library answers it alone.

There is no GPU here: the reference computes in the kernel's place.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.batched_chats import Chats, whole_or_sentence
from tests.support.models.tiny_architectures import Library

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
pytest.importorskip("transformers", reason="and transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread", "free_copies"),
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
Folder = Callable[..., Path]
KINDS = ("llama", "qwen2", "mistral", "gemma3_text", "phi3", "gpt_neox", "gpt2", "mixtral")
QUESTIONS = ("Hello", "Tell me a story about a lighthouse, please. " * 3, "?", "one two " * 40)
SYSTEM = "You know everything about the sea and nothing about the land.\n" * 9 + "Amen."
FEW = {"max_new_tokens": 24}


@pytest.fixture
def paged(chats: Callable[..., Chats], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Chats]:
    """Give what loads a folder into an executor with attention over pages."""
    from backends.huggingface.paged import self_test
    from backends.huggingface.paged.kernels import reference

    monkeypatch.setattr(self_test, "kernel", lambda model: reference)

    def make(path: Path, *options: object, slots: int = 4) -> Chats:
        talk = chats(path, *options, slots=slots)
        assert type(cache(talk)).__name__ == "PagedCache"
        return talk

    return make


def cache(talk: Chats) -> Any:
    """Return the KV cache of an executor."""
    return talk.executor.engine._scheduler._slots.cache  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", KINDS)
def test_the_tokens_are_those_of_the_library(name: str, paged: Any, folder: Folder) -> None:
    """While chats join, leave, go on, share a system prompt, and are read in parts."""
    talk, alone = paged(folder(name)), Library(folder(name))
    with talk.held():
        stopped = talk.ask(QUESTIONS[1], max_new_tokens=60)
        running = [talk.ask(question, **FEW) for question in QUESTIONS]
        stopped.more(3)
        stopped.cancel()
        first = talk.ask("Hi", system=SYSTEM, **FEW)
        first.more()
        others = [talk.ask(question, system=SYSTEM, **FEW) for question in QUESTIONS[:2]]
        assert first.whole() == alone.answer("Hi", system=SYSTEM, **FEW)
        said = ("Hi", first.text, "and then?")
        again = talk.ask(*said, system=SYSTEM, **FEW)
    assert again.whole() == alone.answer(*said, system=SYSTEM, **FEW)
    for question, answer in zip(QUESTIONS, others, strict=False):
        assert answer.whole() == alone.answer(question, system=SYSTEM, **FEW)
    for question, answer in zip(QUESTIONS, running, strict=True):
        assert answer.whole() == alone.answer(question, **FEW)
    assert alone.answer(QUESTIONS[1], max_new_tokens=60).startswith(stopped.whole())


def test_people_take_turns_at_one_slot(paged: Any, folder: Folder) -> None:
    """Pages are parked and restored like columns."""
    talk, alone = paged(folder("llama"), slots=1), Library(folder("llama"))
    for said in (QUESTIONS[1], QUESTIONS[3]) * 2:
        answer = talk.ask(said, **FEW)
        assert answer.whole() == alone.answer(said, **FEW)
    assert answer.request.cached_tokens == len(answer.request.prompt_ids) - 1
    assert talk.executor.cache_settings.cache.facts()["hits"] == 2


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_the_answers_are_the_same(seed: int, paged: Any, folder: Folder) -> None:
    """Chats of up to four pages come, go on, share beginnings and are cancelled by chance."""
    rng = random.Random(seed)
    path = folder(("llama", "gemma3_text")[seed % 2])
    talk, alone = paged(path, slots=rng.choice([2, 3, 4])), Library(path)
    talk.fix_prefill(rng.choice([40, 300]))  # parts of prompts
    known = ["sea " * 130]
    running = []
    for _ in range(12):
        said = [rng.choice(known), "yes", rng.choice("abc") * rng.choice([1, 60, 260])]
        said = said[rng.choice([0, 2]) :]
        options = {"max_new_tokens": rng.randint(1, 40)}
        running.append((said, options, talk.ask(*said, **options), rng.random() < 0.3))
        rng.choice(running)[2].more(rng.randrange(12))
        if running[-1][3]:
            running[-1][2].cancel()
        known.append(said[0])
    for said, options, answer, stops in running:
        expected = alone.answer(*said, **options)
        assert expected.startswith(answer.whole()) if stops else answer.whole() == expected


def test_a_shared_system_prompt_lies_in_memory_once(paged: Any, folder: Folder) -> None:
    """Four chats have its full pages together, each the last one by itself."""
    talk, alone = paged(folder("llama")), Library(folder("llama"))
    with talk.held():
        answers = [talk.ask("a", system=SYSTEM, max_new_tokens=40)]
        answers[0].more()
        answers += [talk.ask(letter, system=SYSTEM, max_new_tokens=40) for letter in "bcd"]
    for letter, answer in zip("abcd", answers, strict=True):
        assert answer.whole() == alone.answer(letter, system=SYSTEM, max_new_tokens=40)
    rows = cache(talk)._tables.rows(range(4), 512)
    assert len(answers[0].request.prompt_ids) > 512
    assert len({tuple(row) for row in rows}) == 1
    assert [answer.request.cached_tokens > 512 for answer in answers[1:]] == [True] * 3


def test_decode_steps_are_recorded_too(
    paged: Any, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows that are too many, beside a chat whose pages they must not touch."""
    from backends.huggingface import scheduler_factory
    from backends.huggingface.decoding import fixed_step
    from tests.backends.huggingface.decoding.test_fixed_step import Double, asked

    graphs = Double()
    monkeypatch.setattr(scheduler_factory, "graphs_for", lambda model, layout: graphs)
    monkeypatch.setattr(fixed_step, "EXACT_ROWS", 0)
    talk, alone = paged(folder("gemma3_text")), Library(folder("gemma3_text"))
    said = ["Remember this", talk.ask("Remember this", **FEW).whole()]
    questions = ("sea " * 63, "sea " * 63 + "?", QUESTIONS[1])
    with talk.held():
        running = [talk.ask(question, max_new_tokens=60) for question in questions]
    for question, answer in zip(questions, running, strict=True):
        assert answer.whole() == alone.answer(question, max_new_tokens=60)
    said.append("What was it?")
    assert talk.ask(*said, **FEW).whole() == alone.answer(*said, **FEW)
    steps = talk.executor.engine._scheduler._fixed_steps
    assert {rows for rows, _ in steps._steps} == {4}
    assert graphs.replays > 40
    assert asked(graphs.recorded) == set()


def test_the_self_test_compares_a_recorded_step(paged: Any, folder: Folder) -> None:
    """Two replays over pages, with other tokens and lengths than what was recorded."""
    from backends.huggingface.decoding.fixed_step import fixed_step_error
    from tests.backends.huggingface.decoding.test_fixed_step import Double

    scheduler = paged(folder("mistral")).executor.engine._scheduler
    assert fixed_step_error(scheduler._model, scheduler._layout, Double()) < 1e-6


@pytest.mark.parametrize(("place", "failures"), [(torch.nn.Embedding, 1), (torch.nn.Linear, 2)])
def test_memory_that_runs_out_harms_as_few_as_possible(
    place: type[Any], failures: int, paged: Any, folder: Folder
) -> None:
    """Pages of idle chats are given back, those of others numbered anew."""
    talk, alone = paged(folder("llama")), Library(folder("llama"))
    talk.ask("forgotten " * 60, **FEW).whole()
    errors = [torch.OutOfMemoryError("CUDA out of memory") for _ in range(failures)]
    vocabulary = talk.executor.model.embeddings

    def fail(module: Any, given: Any) -> None:
        if isinstance(module, place) and vocabulary in module.weight.shape and errors:
            raise errors.pop()

    with talk.held():
        answers = [talk.ask(question, max_new_tokens=50) for question in QUESTIONS]
        answers[3].more(1)
        with torch.nn.modules.module.register_module_forward_pre_hook(fail):
            whole = [whole_or_sentence(answer) for answer in answers]
    lost = [at for at, text in enumerate(whole) if "ran out of memory" in text]
    assert not errors
    assert len(lost) <= failures - 1
    for at, (question, text) in enumerate(zip(QUESTIONS, whole, strict=True)):
        assert at in lost or text == alone.answer(question, max_new_tokens=50)
    assert talk.ask("Hi", **FEW).whole() == alone.answer("Hi", **FEW)


@pytest.mark.parametrize("failing", [1, 2])
def test_pages_that_cannot_be_had_leave_the_tables_right(
    failing: int, paged: Any, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out between two layers, while buffers grow; the chat is answered."""
    from backends.huggingface.paged import paged_layer

    talk, alone = paged(folder("llama"), slots=1), Library(folder("llama"))
    grow, calls = paged_layer.PagedLayer.grow, []

    def fail(layer: Any) -> None:
        calls.append(layer)
        if len(calls) == failing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        grow(layer)

    monkeypatch.setattr(paged_layer.PagedLayer, "grow", fail)
    monkeypatch.setattr(paged_layer, "FIRST_PAGES", 2)
    talk.executor.engine._scheduler.reset()
    question = "sea " * 120
    assert talk.ask(question, max_new_tokens=60).whole() == alone.answer(
        question, max_new_tokens=60
    )
    assert len(calls) > failing


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "deepseek_v3"])
def test_other_models_keep_the_attention_of_the_library(
    name: str,
    chats: Any,
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Soft caps, sinks, values of another size: a line says why."""
    from backends.huggingface.paged import self_test
    from backends.huggingface.paged.kernels import reference

    monkeypatch.setattr(self_test, "kernel", lambda model: reference)
    with caplog.at_level(logging.INFO):
        talk = chats(folder(name))
    (line,) = [one for one in caplog.messages if "over pages" in one]
    assert line.startswith("attention is not computed over pages: ")
    assert talk.ask("Hello", **FEW).whole() == Library(folder(name)).answer("Hello", **FEW)


@pytest.mark.parametrize("options", [(), ("--paged_attention", "off"), ("--reproducible",)])
def test_without_a_gpu_or_where_it_is_off_nothing_changes_and_nothing_is_said(
    options: tuple[str, ...],
    chats: Any,
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The cache has rows, the library its own attention."""
    from backends.huggingface.paged import self_test

    if options:
        monkeypatch.setattr(self_test, "kernel", lambda model: pytest.fail("it was asked for"))
    with caplog.at_level(logging.INFO):
        talk = chats(folder("llama"), *options)
    assert type(cache(talk)).__name__ == "SlotCache"
    assert talk.executor.model.text_config._attn_implementation == "sdpa"
    assert "over pages" not in caplog.text
