"""Both engines with real small models: every answer is what the library alone would say."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backends._local.sequence import Sequence
from kuwa_min import registry
from tests.backends.conftest import ENVIRONMENT
from tests.support.batched_chats import Answer, Chats
from tests.support.local_chats import chat
from tests.support.models import real_models
from tests.support.programs import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
LIBRARIES = {"llamacpp": ("llama_cpp",), "huggingface": ("torch", "transformers", "gguf")}
LENGTH_OPTION = {"llamacpp": "max_tokens", "huggingface": "max_new_tokens"}
MODELS = {"smollm2": real_models.SMOLLM2, "gemma3": real_models.GEMMA3}
SLOTS = 4
TASKS = Path("/proc/self/task")
# Logits. What a batch or a chunk rounds otherwise, mostly activations of a quantised model; a token
# that is out of place is several logits less likely.
NEAR_TIE = {"llamacpp": 0.5, "huggingface": 0.001}
QUESTIONS = (
    "Hello, who are you?",
    "What is 17 + 25? Answer with the number 42 or 1234567890.",
    "用中文說明海是什麼。",
    "Write a Python function that adds two numbers.\n\n```python\n",
    "Name three animals 🐕 that live in the sea, and one that doesn't.",
)
TURNS = (
    "Hi! I am Ada and I live by the sea.",
    "What is my name?",
    "Tell me about lighthouses.",
    "How tall are they?",
    "你會說中文嗎？",
    "Thank you. What is 12 times 12?",
    "Write one line of Python that prints it.",
    "Now in capitals, please!",
    "Where do I live?",
    "Goodbye :-)",
)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"enum": [17, 42]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def is_person(text: str) -> bool:
    """Tell whether a text is what PERSON says."""
    person = json.loads(text)
    return set(person) == {"name", "age"} and person["age"] in (17, 42)


CONSTRAINTS: tuple[tuple[str, str, Callable[[str], object]], ...] = (
    ("json_schema", json.dumps(PERSON), is_person),
    ("regex", "(yes|no)[!?]{1,3}", re.compile("(yes|no)[!?]{1,3}").fullmatch),
    ("grammar", 'start: /[a-c]{2}/ ("+" "d")~1..3', re.compile(r"[a-c]{2}(\+d){1,3}").fullmatch),
)


class Real(NamedTuple):
    """A loaded backend, the library beside it, and the tokens of each request."""

    chats: Chats
    library: Any
    made: dict[Any, list[int]]
    length_option: str
    near_tie: float
    is_base: bool  # it has no template, and its answers end where it plays the other side

    def ask(self, *said: str, tokens: int, **wishes: Any) -> Answer:
        """Ask for at most this many tokens; the wishes are a Modelfile's llm_*."""
        return self.chats.ask(*said, **{self.length_option: tokens}, **wishes)

    def said(self, request: Any) -> list[int]:
        """Return the tokens of an answer, without the one that ended it."""
        ends = self.chats.executor.model.eos_token_ids  # type: ignore[attr-defined]
        return [token for token in self.made[request] if token not in ends]

    def check(self, answer: Answer) -> None:
        """Compare an answer with what the library says to the same prompt, token by token.

        Where two tokens are nearly as likely, the library may say the other one.
        """
        prompt, made = answer.request.prompt_ids, self.said(answer.request)
        assert made
        most = len(made) if self.is_base else answer.request.options[self.length_option]
        if made != self.library.greedy(prompt, most):
            assert self.library.margins(prompt + made, len(prompt)).max() < self.near_tie


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> Iterator[Real]:
    """Load a model in a backend, and in its library."""
    backend, model = request.param
    _need(backend)
    from tests.support.models import real_libraries

    is_llama = backend == "llamacpp"
    path = _path(backend, model)
    kind = real_libraries.LlamaLibrary if is_llama else real_libraries.TransformersLibrary
    made: dict[Any, list[int]] = {}
    add_token = Sequence.add_token

    def recorded(self: Any, token: int) -> bool:
        made.setdefault(self.request, []).append(token)
        return add_token(self, token)

    with pytest.MonkeyPatch.context() as patch, _torch_threads(backend, 1):
        patch.setattr(Sequence, "add_token", recorded)
        executor = _load(backend, path, patch, *kind.EXACT)
        yield Real(
            Chats(executor),
            kind(path),
            made,
            LENGTH_OPTION[backend],
            NEAR_TIE[backend],
            is_base=model == "gemma3",
        )
    executor.constrainer.close()
    executor.engine.close()
    executor.sandbox_pool.close()


def _need(backend: str) -> None:
    for name in LIBRARIES[backend]:
        if not find_spec(name):
            pytest.skip(f"{backend} with a real model needs {name}")


def _path(backend: str, model: str) -> Path:
    find = real_models.gguf_file if backend == "llamacpp" else real_models.model_folder
    return find(MODELS[model])


def _load(backend: str, path: Path, patch: pytest.MonkeyPatch, *options: str) -> Any:
    """Load a model in a backend; the patch restores what that changes."""
    for name in ENVIRONMENT:
        patch.setenv(name, os.environ.get(name, ""))
        patch.delenv(name)
    loading = ("--model_path", str(path), "--concurrent_req_limit", str(SLOTS))
    patch.setattr(sys, "argv", ["kuwa", *loading, *options])
    executor: Any = registry.load(backend)()
    executor.setup()
    return executor


@contextmanager
def _torch_threads(backend: str, count: int) -> Iterator[None]:
    """Set torch's number of threads if the backend uses torch."""
    if backend != "huggingface":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


EVERY = [(backend, model) for backend in LIBRARIES for model in MODELS]
every_model = pytest.mark.parametrize("real", EVERY, indirect=True, ids="-".join)


@every_model
def test_greedy_answers_are_the_librarys_own(real: Real) -> None:
    """Prompts too, where the model has a template."""
    for question in QUESTIONS:
        answer = real.ask(question, tokens=10)
        answer.whole()
        if not real.is_base:
            assert answer.request.prompt_ids == real.library.prompt_ids(chat(question))
        real.check(answer)


@every_model
def test_chats_at_once_disturb_each_other_in_nothing(real: Real) -> None:
    """They begin one after the other, and more wait than have a slot; some are stopped."""
    with real.chats.held():
        running = [real.ask(question, tokens=8) for question in QUESTIONS]
        unwanted = [real.ask("Count to a thousand.", tokens=400) for _ in range(2)]
        for answer in unwanted:
            answer.more()
            answer.cancel()
        running += [real.ask(question * 2, tokens=6) for question in QUESTIONS[:2]]
    for answer in running:
        answer.whole()
        real.check(answer)


@every_model
def test_a_stopped_answer_is_gone_on_from(real: Real) -> None:
    """What was computed of it is not computed again."""
    question = "Tell me a long story about a dog and a cat."
    with real.chats.held():
        stopped = real.ask(question, tokens=400)
        stopped.more(20)
        stopped.cancel()
    text = stopped.whole()
    again = real.ask(question, text, "Go on.", tokens=8)
    again.whole()
    assert again.request.cached_tokens >= len(stopped.request.prompt_ids) - 1
    real.check(again)


@every_model
def test_constrained_answers_match_and_leave_their_neighbours_alone(real: Real) -> None:
    """Drawn from all tokens at temperature 1, and greedy; free chats say what they say alone."""
    pytest.importorskip("llguidance", reason="constrained answers need it")
    drawn = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}
    asked = [(*one, {**drawn, "seed": 1}) for one in CONSTRAINTS]
    asked += [(*CONSTRAINTS[0], {"temperature": 0})]
    with real.chats.held():
        free = [real.ask(QUESTIONS[0], tokens=10)]
        held = [
            (check, real.ask("Describe a person.", tokens=60, **{kind: text}, **wish))
            for kind, text, check, wish in asked
        ]
    for check, answer in held:
        text = answer.whole()
        assert check(text), text
        assert answer.request.completion_tokens < 60, "it ended by itself"
    for answer in free:
        answer.whole()
        real.check(answer)


@pytest.mark.parametrize(
    "real", [(backend, "smollm2") for backend in LIBRARIES], indirect=True, ids="-".join
)
def test_ten_turns_are_those_that_one_pass_computes(real: Real) -> None:
    """Each turn goes on from the last one's tokens, as if all had been read at once."""
    said: list[str] = []
    turns = []
    for question in TURNS:
        said.append(question)
        answer = real.ask(*said, tokens=12)
        said.append(answer.whole())
        assert answer.request.prompt_ids == real.library.prompt_ids(chat(*said[:-1]))
        if turns:
            assert answer.request.cached_tokens >= len(turns[-1].request.prompt_ids) - 1
        turns.append(answer)
    last = turns[-1].request
    tokens = [*last.prompt_ids, *real.said(last)]
    margins = real.library.margins(tokens, 1)  # of the second token and all later ones
    for turn in turns:
        start, made = len(turn.request.prompt_ids), real.said(turn.request)
        assert tokens[start : start + len(made)] == made, "the text has other tokens when read"
        assert margins[start - 1 : start - 1 + len(made)].max() < real.near_tie


@pytest.mark.parametrize("backend", LIBRARIES)
def test_one_thread_computes_with_one_team(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the check at the start to an answer's end; a second team would slow down the first."""
    _need(backend)
    path = _path(backend, "smollm2")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # threads that are no team of OpenMP's
    computing = _recorded_threads(backend, monkeypatch)
    options = ("--threads", "2") if backend == "llamacpp" else ()
    with _torch_threads(backend, 2):  # which starts a thread of torch's own
        before = set(TASKS.iterdir())
        executor = _load(backend, path, monkeypatch, *options)
    try:
        checked = len(computing)
        assert checked
        Chats(executor).ask("Hello", **{LENGTH_OPTION[backend]: 4}).whole()
        assert len(computing) > checked
        (engine,) = set(computing)
        until(lambda: len(set(TASKS.iterdir()) - before) <= 2)  # joined threads may still end
        more = set(TASKS.iterdir()) - before
        assert TASKS / str(engine) in more
        assert len(more) == 2, "the engine and its helper"
    finally:
        executor.engine.close()
        executor.sandbox_pool.close()


def _recorded_threads(backend: str, patch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each computation adds the thread that it runs on."""
    found: list[int] = []
    if backend == "llamacpp":
        import llama_cpp

        decode = llama_cpp.llama_decode

        def recorded(*given: Any) -> int:
            found.append(threading.get_native_id())
            return int(decode(*given))

        recorded.argtypes = decode.argtypes  # type: ignore[attr-defined]
        patch.setattr(llama_cpp, "llama_decode", recorded)
        return found
    import torch

    call = torch.nn.Module.__call__

    def called(*given: Any, **more: Any) -> Any:
        found.append(threading.get_native_id())
        return call(*given, **more)

    patch.setattr(torch.nn.Module, "__call__", called)
    return found
