"""Have chats with one executor, all at once; see their texts as they come, and their logits."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from backends._local.executor import ModelExecutor
from backends._local.prefill_budget import FIRST_TOKENS
from backends._local.sequence import Sequence
from kuwa_min import Modelfile
from kuwa_min.errors import AnswerError

ANSWER_TIMEOUT = 300.0  # seconds until an answer that does not come is a failure
ROLES = ("user", "assistant")
NEIGHBOURS = ("Count to a hundred. ", "Name all the ships. " * 9)


class HeldEngine:
    """Holds an engine's thread before each of its steps, until a test calls step().

    A step sees all that the test submitted or cancelled before it, however fast either thread is.
    """

    def __init__(self, engine: Any) -> None:
        self._begin, self._ended = threading.Semaphore(0), threading.Semaphore(0)
        self._engine, self._admit = engine, engine._admit
        engine._admit = self._wait_and_admit
        engine._put(None)  # in case it waits for a request
        self._wait()
        for request in list(engine._queued()):  # put them back, without that None
            engine.submit(request)

    def _wait_and_admit(self) -> None:
        """Take the place of the engine's _admit()."""
        self._ended.release()
        self._begin.acquire()
        self._admit()
        for request in self._engine._running:
            request.emit_interval = 0.0  # text is there when its step is over

    def _wait(self) -> None:
        """Wait until the engine has ended its step."""
        assert self._ended.acquire(timeout=ANSWER_TIMEOUT), "a step does not end"

    def step(self) -> None:
        """Let the engine admit requests and take a step, if there is something to compute."""
        self._begin.release()
        self._wait()

    def release(self) -> None:
        """Let the engine run."""
        del self._engine._admit
        self._begin.release()


class Chats:
    """Chats with one executor, all at once."""

    def __init__(self, executor: ModelExecutor) -> None:
        self.executor = executor
        self.held_engine: HeldEngine | None = None
        self._budget_is_fixed = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the engine take a step only where an answer is read and its text has not come yet.

        So chats that are asked in this block are computed at once, and one is stopped after as many
        tokens as were read. What a step begins and prefills does not depend on this machine's speed
        either. Not for a scheduler whose step is a whole answer.
        """
        engine = self.executor.engine
        self.held_engine = HeldEngine(engine)
        try:
            if not self._budget_is_fixed:
                self.fix_prefill(FIRST_TOKENS)
            with pytest.MonkeyPatch.context() as patch:
                for kind in type(engine._scheduler).__mro__:
                    module = sys.modules[kind.__module__]
                    if hasattr(module, "BEGIN_SECONDS"):
                        patch.setattr(module, "BEGIN_SECONDS", math.inf)
                yield
        finally:
            self.held_engine.release()
            self.held_engine = None

    def step(self) -> None:
        """Let an engine that is held take a step."""
        assert self.held_engine is not None
        self.held_engine.step()

    def fix_prefill(self, tokens: int) -> None:
        """Prefill this many tokens in a step, however fast this machine is."""
        budget = self.executor.engine._scheduler._budget  # type: ignore[attr-defined]
        budget._tokens, budget.record = tokens, lambda *_: None
        self._budget_is_fixed = True

    def ask(self, *said: str, **wishes: Any) -> Answer:
        """Submit what user and assistant said in turn; the wishes are those of `create`."""
        return self.submit(self.create(*said, **wishes))

    def submit(self, request: Any) -> Answer:
        """Let the executor answer a request."""
        self.executor.engine.submit(request)
        return Answer(request, self)

    def create(self, *said: str, system: str = "", **options: Any) -> Any:
        """Return a request of a chat; the options are a Modelfile's llm_*."""
        history = [{"role": ROLES[n % 2], "content": text} for n, text in enumerate(said)]
        entries = [{"name": "parameter", "args": f"llm_{k} {v}"} for k, v in options.items()]
        entries += [{"name": "system", "args": system}] if system else []
        modelfile = Modelfile.from_json(json.dumps(entries))
        return self.executor.create_request(history, modelfile)


class Answer:
    """The text of a request as it comes."""

    def __init__(self, request: Any, chats: Chats | None = None) -> None:
        """Read a request that was submitted; chats: those whose engine may be held."""
        self.request, self.text, self._chats = request, "", chats

    def more(self, characters: int = 1) -> str:
        """Return all text so far, when this many more characters came or the answer is over."""
        wanted, deadline = len(self.text) + characters, time.monotonic() + ANSWER_TIMEOUT
        while len(self.text) < wanted and not self.request.drained:
            assert time.monotonic() < deadline, f"silent after {self.text!r}"
            self.text += self._next_text()
        return self.text

    def _next_text(self) -> str:
        """Return what has come; wait for more, or let an engine that is held take a step."""
        held = self._chats and self._chats.held_engine
        text: str = self.request.next_text(0 if held else 0.1)
        if held and not (text or self.request.drained):
            held.step()
        return text

    @property
    def side_notes(self) -> str:
        """Return what is shown behind the text."""
        return "".join(self.request.side_notes)

    def whole(self) -> str:
        """Return the answer when it is over, with its side notes."""
        return self.more(10**9) + self.side_notes

    def cancel(self) -> None:
        """Want no more of it."""
        self.request.cancel()


def whole_or_sentence(answer: Answer) -> str:
    """Return an answer, or the sentence that the user reads instead."""
    try:
        return answer.whole()
    except AnswerError as error:
        return str(error)


class LogitRecorder:
    """Records what each request's tokens are sampled from, to the last bit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        """Watch sample() of these modules; its last argument are the samplers."""
        self._rows: dict[int, list[bytes]] = {}  # by the id of the sampler
        self._samplers: dict[int, Any] = {}  # by the id of the request; keeps the samplers alive
        begin = Sequence.begin

        def noted(sequence: Any, request: Any, model: Any, sampler: Any, **more: Any) -> None:
            self._samplers[id(request)] = sampler
            self._rows[id(sampler)] = []  # not those of an earlier one at the same address
            begin(sequence, request, model, sampler, **more)

        monkeypatch.setattr(Sequence, "begin", noted)
        for module in modules:
            monkeypatch.setattr(module, "sample", self._watched(module.sample))

    def _watched(self, sample: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            *_, found, samplers = arguments
            for row, sampler in zip(getattr(found, "logits", found), samplers, strict=False):
                values = row if not hasattr(row, "float") else row.float().numpy()
                self._rows[id(sampler)].append(values.tobytes())
            return sample(*arguments)

        return watched

    def of(self, answer: Answer) -> tuple[str, list[bytes]]:
        """Return the text of an answer when it is over, and its logits token by token."""
        return answer.whole(), self._rows[id(self._samplers[id(answer.request)])]


def in_every_company(
    chats: Chats, recorder: LogitRecorder, create: Callable[[], Any]
) -> dict[str, tuple[str, list[bytes]]]:
    """Return what equal requests are answered: repeated, beside others, after aborts.

    create: returns the request of a chat that is longer than a chunk.
    """

    def ask() -> tuple[str, list[bytes]]:
        return recorder.of(chats.submit(create()))

    def stop(answer: Answer) -> None:
        answer.cancel()
        answer.whole()

    with chats.held():
        other = chats.ask("Hi")
        other.more(3)
        stop(other)
        found = {"after another": ask(), "repeated": ask()}
        neighbours = [chats.ask(question) for question in NEIGHBOURS]
        neighbours[0].more(3)
        found["beside others"] = ask()
        at_once = [chats.submit(create()) for _ in range(3)]  # more than there are slots
        for neighbour in neighbours:
            stop(neighbour)
        for number, answer in enumerate(at_once):
            found[f"{number} of three at once"] = recorder.of(answer)
        cut = chats.submit(create())
        chats.step()  # which prefills a chunk, or the end of it where the rest is cached
        stop(cut)
        found["after an abort of its prefill"] = ask()
        cut = chats.submit(create())
        cut.more(3)
        stop(cut)
        found["after an abort of its answer"] = ask()
    return found
