"""Decode steps of fixed shapes: the same tokens as by usual steps, with everything that comes.

There is no GPU here: a double records a computation and repeats it with the interpreter. What a
graph cannot hold, a question to the device, is looked for in what it records.
"""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.huggingface import HuggingfaceExecutor
from kuwa_min.errors import StartError
from kuwa_min.process import supervision
from tests.support.batched_chats import Chats
from tests.support.models.tiny_architectures import POPULAR, Library

torch = pytest.importorskip("torch", reason="the huggingface backend needs torch")
pytest.importorskip("transformers", reason="and transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
QUESTIONS = ("Hello", "Tell me a story about a lighthouse, please. " * 3, "?", "a", "one two " * 20)
# What makes the interpreter wait for a value, which a replayed graph would not see.
ASKING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "bincount"}


class Double:
    """Records computations as Graphs do, and repeats them with the interpreter."""

    def __init__(self) -> None:
        self.recorded: list[Callable[[], None]] = []
        self.replays = self.waits = 0
        self.failure: Exception | None = None  # of recordings; if memory ran out, of one
        self.late: Exception | None = None  # seen by who waits for a replay, once
        self.refused = 0

    def pinned(self, *shape: int, dtype: Any) -> Any:
        """Return memory."""
        return torch.zeros(*shape, dtype=dtype)

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        """Return compute(), which is run once now."""
        if self.failure is not None:
            failure, self.refused = self.failure, self.refused + 1
            if isinstance(failure, torch.OutOfMemoryError):
                self.failure = None
            raise failure
        compute()
        self.recorded.append(compute)

        def replay() -> None:
            self.replays += 1
            compute()

        return replay

    def synchronize(self) -> None:
        """Count: the processor has computed."""
        self.waits += 1
        if self.late is not None:
            late, self.late = self.late, None
            raise late


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Double:
    """Let schedulers replay decode steps, by a double."""
    from backends.huggingface import scheduler_factory

    double = Double()
    monkeypatch.setattr(scheduler_factory, "graphs_for", lambda model, layout: double)
    return double


@pytest.mark.parametrize("name", POPULAR)
def test_the_tokens_are_those_of_the_library(
    name: str, graphs: Double, chats: Any, folder: Callable[..., Path]
) -> None:
    """While chats come, leave and go on; and no recorded step asks the device for a value."""
    talk, alone = chats(folder(name)), Library(folder(name))
    many = {"max_new_tokens": 25}
    with talk.held():
        stopped = talk.ask(QUESTIONS[1], max_new_tokens=60)
        stopped.more(3)
        running = [talk.ask(question, **many) for question in QUESTIONS[2:]]
        running[0].more(12)
        stopped.cancel()
        first = talk.ask("Hello", **many).whole()
        assert first == alone.answer("Hello", **many)
        said = ("Hello", first, "and then?")
        assert talk.ask(*said, **many).whole() == alone.answer(*said, **many)
    for question, answer in zip(QUESTIONS[2:], running, strict=True):
        assert answer.whole() == alone.answer(question, **many)
    assert graphs.waits == graphs.replays > 20
    assert asked(graphs.recorded) == set()


def asked(recorded: list[Callable[[], None]]) -> set[str]:
    """Return the operations of these computations that ask the device for a value."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found: set[str] = set()

    class Listener(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = func._schema.name.partition("::")[2]
            selects = name == "index" and any(
                one is not None and one.dtype == torch.bool for one in args[1]
            )
            if name in ASKING or selects:
                found.add(name)
            return func(*args, **(kwargs or {}))

    with torch.inference_mode(), Listener():
        for compute in recorded[-2:]:
            compute()
    return found


def test_rows_are_padded_behind_what_idle_slots_hold(
    graphs: Double, chats: Any, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three chats in steps of four rows; the fourth slot's chat then goes on as if untouched."""
    from backends.huggingface.decoding import fixed_step

    monkeypatch.setattr(fixed_step, "EXACT_ROWS", 0)
    talk, alone = chats(folder("llama")), Library(folder("llama"))
    said = ["Remember this", talk.ask("Remember this", max_new_tokens=30).whole()]
    with talk.held():
        running = [talk.ask(question, max_new_tokens=60) for question in QUESTIONS[:3]]
    for question, answer in zip(QUESTIONS, running, strict=False):
        assert answer.whole() == alone.answer(question, max_new_tokens=60)
    said.append("What was it?")
    assert talk.ask(*said, max_new_tokens=30).whole() == alone.answer(*said, max_new_tokens=30)
    assert {len(shape) for shape in shapes(talk)} == {2}
    assert {rows for rows, _ in shapes(talk)} == {4}


def shapes(talk: Chats) -> list[tuple[int, int]]:
    """Return the shapes that the scheduler has recorded."""
    return list(talk.executor.engine._scheduler._fixed_steps._steps)


def test_longer_chats_have_twice_the_columns_and_new_recordings(
    graphs: Double, chats: Any, folder: Callable[..., Path]
) -> None:
    """Buffers double and move: what was recorded for the old ones is dropped."""
    path = folder("qwen2", max_position_embeddings=2048)
    talk, alone = chats(path, slots=1), Library(path)
    question = "word " * 45
    assert talk.ask(question, max_new_tokens=60).whole() == alone.answer(
        question, max_new_tokens=60
    )
    assert shapes(talk) == [(1, 512)]
    assert len(graphs.recorded) == 2


def test_more_chats_move_no_buffers(
    graphs: Double, chats: Any, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All slots are reserved before the first recording, which the others leave in place."""
    talk, alone = chats(folder("llama")), Library(folder("llama"))
    many = {"max_new_tokens": 40, "do_sample": "true", "top_k": 3, "seed": 5}
    with talk.held():
        first = talk.ask("Hello", **many)
        first.more(6)
        scheduler = talk.executor.engine._scheduler
        buffers = scheduler._slots.cache.buffers
        others = [talk.ask(question, max_new_tokens=20) for question in QUESTIONS[1:4]]
    for question, answer in zip(QUESTIONS[1:4], others, strict=True):
        assert answer.whole() == alone.answer(question, max_new_tokens=20)
    assert first.whole() == talk.ask("Hello", **many).whole()
    assert scheduler._slots.cache.buffers is buffers
    assert len(shapes(talk)) > 1
    assert graphs.waits == graphs.replays  # one copy a step, though a chat samples


def test_slots_are_not_reserved_ahead_where_memory_is_short(
    graphs: Double, chats: Any, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before they are needed; and spare ones are given up when columns are added."""
    from backends.huggingface.device import cards

    monkeypatch.setattr(cards, "free_bytes", lambda device: 0)
    path = folder("llama", max_position_embeddings=2048)
    talk, alone = chats(path), Library(path)
    scheduler = talk.executor.engine._scheduler
    assert talk.ask("Hello", max_new_tokens=20).whole() == alone.answer("Hello", max_new_tokens=20)
    assert graphs.replays > 0 and slot_count(scheduler) == 1
    monkeypatch.setattr(cards, "free_bytes", lambda device: 10**9)
    asked = "word " * 45
    with talk.held():
        talk.ask(asked, max_new_tokens=20).more(6)
        assert slot_count(scheduler) == 4
        monkeypatch.setattr(cards, "free_bytes", lambda device: 0)
    assert talk.ask(asked, max_new_tokens=60).whole() == alone.answer(asked, max_new_tokens=60)
    assert slot_count(scheduler) < 4


def slot_count(scheduler: Any) -> int:
    """Return the slots that the buffers of the first layer have room for."""
    return len(scheduler._slots.cache._slot_layers[0].keys)


@pytest.mark.parametrize(
    ("columns", "read"),
    [(1, 256), (256, 256), (257, 512), (1024, 1024), (1025, 1280), (2049, 2560), (9000, 10240)],
)
def test_columns_are_read_in_vain_for_a_quarter_at_most(columns: int, read: int) -> None:
    """And in multiples of what buffers grow by."""
    from backends.huggingface.decoding.fixed_step import _rounded_columns

    assert _rounded_columns(columns) == read


def test_recordings_that_were_not_used_lately_are_dropped(
    graphs: Double, chats: Any, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each keeps memory of the GPU."""
    from backends.huggingface.decoding import fixed_step

    monkeypatch.setattr(fixed_step, "MAX_RECORDED", 2)
    talk = chats(folder("llama"))
    with talk.held():
        first, second = (talk.ask(question, max_new_tokens=60) for question in QUESTIONS[:2])
        second.more(8)  # steps of two rows
        second.cancel()
        first.more(16)  # of one
        third = talk.ask(QUESTIONS[2], max_new_tokens=60)
        third.more(8)  # of two again
        others = [talk.ask(question, max_new_tokens=60) for question in QUESTIONS[3:]]
        others[0].more(8)  # of four
    assert [rows for rows, _ in shapes(talk)] == [2, 4]
    assert len(graphs.recorded) == 3


def test_the_first_failure_ends_recording_and_no_answer(
    graphs: Double,
    chats: Any,
    folder: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is said once, and later steps are usual ones."""
    graphs.failure = RuntimeError("operation not permitted when stream is capturing")
    talk, alone = chats(folder("llama")), Library(folder("llama"))
    with caplog.at_level(logging.WARNING):
        for question in QUESTIONS[:2]:
            answer = talk.ask(question, max_new_tokens=20).whole()
            assert answer == alone.answer(question, max_new_tokens=20)
    (line,) = [one.getMessage() for one in caplog.records if "CUDA graphs" in one.getMessage()]
    assert "not used from now on" in line and "stream is capturing" in line
    assert graphs.replays == 0


def test_memory_that_runs_out_drops_recordings_and_no_chat(
    graphs: Double, chats: Any, folder: Callable[..., Path]
) -> None:
    """The step is repeated once memory is freed, and later ones are recorded again."""
    talk, alone = chats(folder("llama")), Library(folder("llama"))
    graphs.failure = torch.OutOfMemoryError("CUDA out of memory")
    answer = talk.ask("Hello", max_new_tokens=30)
    assert answer.whole() == alone.answer("Hello", max_new_tokens=30)
    assert graphs.refused == 1 and graphs.replays > 0


def test_memory_that_runs_out_in_a_replay_ends_no_chat(
    graphs: Double, chats: Any, folder: Callable[..., Path]
) -> None:
    """Also while a chat samples: its step is computed again."""
    talk, alone = chats(folder("llama")), Library(folder("llama"))
    graphs.late = torch.OutOfMemoryError("CUDA out of memory")
    answer = talk.ask("Hello", max_new_tokens=30, do_sample="true", top_k=1)
    assert answer.whole() == alone.answer("Hello", max_new_tokens=30)
    assert graphs.late is None and graphs.replays > 1


def test_a_gpu_that_is_lost_in_a_replay_ends_the_process(
    graphs: Double,
    chats: Any,
    folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is said of CUDA graphs, which are not to blame."""
    reasons, ended = list[str](), threading.Event()

    def end(reason: str) -> None:
        reasons.append(reason)
        ended.set()

    monkeypatch.setattr(supervision, "_end_process", end)
    talk = chats(folder("llama"))
    graphs.late = RuntimeError("CUDA error: an illegal memory access was encountered")
    answer = talk.ask("Hello", max_new_tokens=30)
    with pytest.raises(StartError, match="illegal memory access"):
        answer.whole()
    assert ended.wait(60)
    assert "a new process can use it" in reasons[0] and len(reasons) == 1
    assert "CUDA graphs" not in caplog.text


def test_a_reset_frees_the_kv_cache(
    graphs: Double, chats: Any, folder: Callable[..., Path]
) -> None:
    """No recorded step keeps it."""
    talk = chats(folder("llama"))
    scheduler = talk.executor.engine._scheduler
    with talk.held():
        talk.ask("Hello", max_new_tokens=20).whole()
        cache = weakref.ref(scheduler._slots.cache)
        assert graphs.recorded and cache() is not None
        graphs.recorded.clear()
        scheduler.reset()
        gc.collect()
        assert cache() is None


@pytest.fixture
def model(load: Any, folder: Callable[..., Path]) -> Iterator[Any]:
    """Load a model."""
    yield load(HuggingfaceExecutor, "--model_path", folder("gemma3_text")).executor.model


@pytest.mark.parametrize("is_right", [True, False])
def test_the_self_test_sees_a_replay_that_repeats_old_values(model: Any, is_right: bool) -> None:
    """A step that was recorded with its first tokens in it gives the same logits again."""
    from backends.huggingface.batching.attention_mask import attention_layout
    from backends.huggingface.decoding.fixed_step import fixed_step_error

    double = Double()
    if not is_right:
        double.record = lambda compute: compute() or (lambda: None)  # type: ignore[method-assign,func-returns-value]
    layout = attention_layout(model.text_config, model.library_model.dtype)
    error = fixed_step_error(model, layout, double)
    assert (error < 1e-6) == is_right
