"""Status: what a backend says of itself, and what /status makes of it."""

from __future__ import annotations

import io
import json
import logging
import math
import sys
import threading
import time
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest

from kuwa_min import LLMExecutor, progress
from kuwa_min.serving.backend_status import BackendStatus
from kuwa_min.serving.event_loop import EventLoop
from kuwa_min.serving.generations.generator_runner import GeneratorRunner
from kuwa_min.serving.metrics import Metrics
from kuwa_min.serving.status import LOADING, ExecutorStatus


@pytest.fixture
def _frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock: only the start of a task is moved."""
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 5000.0))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def rendered(report: BackendStatus, state: str = "ready", **numbers: float) -> dict[str, Any]:
    """Return what /status shows of a report, with these metrics set."""
    metrics = Metrics("first", backend="Test", version="9", slots=3)
    for name, number in numbers.items():
        getattr(metrics, name).set(number)
    about = ExecutorStatus(
        report,
        metrics,
        version="9",
        backend="Test",
        access_codes=["first", "二"],
        started=time.monotonic(),
    )
    found: dict[str, Any] = json.loads(about.render(state))
    assert 0 <= found.pop("uptime_seconds") < 60
    return found


def test_a_fact_may_be_a_function() -> None:
    """It is called at each request; a class is shown as text."""
    report, held = BackendStatus(), [1]
    report.describe({"cache": lambda: {"held": held[0]}, "kind": int})
    held[0] = 2
    assert rendered(report)["model"] == {"cache": {"held": 2}, "kind": "<class 'int'>"}


def test_a_ready_executor_shows_what_it_is_and_how_busy() -> None:
    """Every key, and no progress."""
    report = BackendStatus()
    report.describe({"model": "Qwen2ForCausalLM", "context": 32768})
    assert rendered(report, busy_slots=2, waiting=4, registered=True) == {
        "state": "ready",
        "version": "9",
        "backend": "Test",
        "access_codes": ["first", "二"],
        "slots": 3,
        "busy_slots": 2,
        "waiting": 4,
        "longest_wait_seconds": 0.0,
        "registered": True,
        "model": {"model": "Qwen2ForCausalLM", "context": 32768},
    }


@pytest.mark.usefixtures("_frozen_clock")
def test_a_loading_executor_shows_how_far_it_is() -> None:
    """A quarter in ten seconds leaves thirty."""
    report = BackendStatus()
    steps = report.begin("loading ./model")
    steps.started -= 10
    steps(2, 8)
    found = rendered(report, LOADING)["progress"]
    assert found.pop("seconds_left") == 30
    assert found == {"what": "loading ./model", "done": 2, "total": 8, "percent": 25}


@pytest.mark.parametrize(("done", "percent"), [(99, 99), (100, 99), (101, 99), (98, 98)])
def test_a_bar_that_is_full_is_not_the_end_of_loading(done: int, percent: int) -> None:
    """A backend may check the model behind its last step: 100 % is when it is ready."""
    report = BackendStatus()
    report.begin("loading ./model")(done, 100)
    assert rendered(report, LOADING)["progress"]["percent"] == percent


def test_before_the_first_step_no_time_left_is_stated() -> None:
    """And before the first task there is nothing to show."""
    report = BackendStatus()
    assert rendered(report, LOADING)["progress"] is None
    report.begin("loading ./model")
    found = rendered(report, LOADING)["progress"]
    assert found == {
        "what": "loading ./model",
        "done": 0,
        "total": 0,
        "percent": 0,
        "seconds_left": None,
    }


def test_the_last_task_is_shown_until_it_ends() -> None:
    """Begin two."""
    report = BackendStatus()
    report.begin("reading")
    report.begin("warming up")(1, 2)
    assert rendered(report, LOADING)["progress"]["what"] == "warming up"
    report.end()
    assert rendered(report, LOADING)["progress"] is None


def test_facts_are_added_to_and_replaced() -> None:
    """Describe twice; later changes of the caller's object change nothing."""
    report = BackendStatus()
    devices = ["cuda:0"]
    report.describe({"dtype": "auto", "devices": devices})
    devices.append("cuda:1")
    report.describe({"dtype": "bfloat16", "template": None})
    model = rendered(report)["model"]
    assert model == {"dtype": "bfloat16", "devices": ["cuda:0"], "template": None}


def test_a_fact_that_json_cannot_hold_is_shown_as_text() -> None:
    """Half a character is no reason to fail either."""
    report = BackendStatus()
    report.describe({"file": PurePosixPath("model"), "name": "\ud800"})
    assert rendered(report)["model"] == {"file": "model", "name": "\ud800"}


def test_a_number_that_json_lacks_is_refused_where_it_is_said() -> None:
    """What is not JSON would break every reader of /status."""
    report = BackendStatus()
    with pytest.raises(ValueError, match="JSON"):
        report.describe({"loss": math.nan})
    assert rendered(report)["model"] == {}


@pytest.mark.usefixtures("_frozen_clock")
def test_a_tenth_is_a_line_of_the_log_with_the_time_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where standard error is no terminal."""
    caplog.set_level(logging.INFO)
    report = BackendStatus()
    steps = report.begin("loading ./model")
    steps.started -= 10
    for done in (1, 2, 3):
        steps(done, 4)
    assert caplog.messages == [
        "loading ./model: 25 %, 30 s left",
        "loading ./model: 50 %, 10 s left",
        "loading ./model: 75 %, 3 s left",
    ]


@pytest.mark.usefixtures("_frozen_clock")
def test_a_terminal_gets_a_bar_that_the_end_clears(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no line of the log."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    report = BackendStatus()
    steps = report.begin("loading ./model")
    steps.started -= 10
    steps(1, 2)
    bar = f"\r\x1b[Kloading ./model [{'#' * 15}{'.' * 15}]  50 %, 10 s left"
    assert stream.getvalue() == bar
    report.begin("warming up")
    assert stream.getvalue() == f"{bar}\r\x1b[K"
    report.end()
    assert stream.getvalue() == f"{bar}\r\x1b[K\r\x1b[K"


# -- as a backend sees it


class Reporter(LLMExecutor):
    """A backend that says all it can."""

    def __init__(self) -> None:
        super().__init__()
        self.unblock, self.blocks = threading.Event(), threading.Event()

    def setup(self) -> None:
        """Say how far it is and what it is."""
        self.progress("loading ./model")(1, 1)
        self.describe(engine="of paper")

    async def llm_compute(self, history, modelfile):  # type: ignore[no-untyped-def]
        """Block until the stop."""
        self.on_stop(self.unblock.set)
        self.count_tokens(read=3, written=1)
        yield "first"
        self.blocks.set()
        self.unblock.wait(20)


@pytest.mark.parametrize("loop", [EventLoop(), None])
def test_a_backend_without_a_service_may_report_it_all(loop: EventLoop | None) -> None:
    """Drive it as its own tests do; a stop reaches it although it blocks."""
    executor, runner, taken = Reporter(), GeneratorRunner(), list[str]()
    executor.setup()
    generator = executor.llm_compute([], None)
    thread = threading.Thread(target=lambda: runner.run(generator, taken.append, loop=loop))
    thread.start()
    assert executor.blocks.wait(60)
    runner.cancel()
    assert runner.ended.wait(60)
    thread.join()
    assert taken == ["first"]


def test_outside_of_a_chat_on_stop_does_nothing() -> None:
    """Call it where no chat is."""
    executor = Reporter()
    executor.on_stop(executor.unblock.set)
    assert not executor.unblock.is_set()
