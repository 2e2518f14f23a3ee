"""Comparisons of durations, with a clock that advances by what is computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backends._local.machine import timing


class Work:
    """Takes the given seconds in turn, the last ones for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.runs = 0.0, list[str]()
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def taking(self, name: str, *seconds: float) -> Callable[[], None]:
        """Return work that takes these durations, one after the other."""
        left = list(seconds)

        def run() -> None:
            self.runs.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Give the clock that durations are measured with."""
    return Work(monkeypatch)


def compare(works: dict[str, Callable[[], None]], seconds: float) -> tuple[dict[str, float], int]:
    """Return the durations, and how often the comparison yielded."""
    comparison, count = timing.compare(works, seconds), 0
    while True:
        try:
            next(comparison)
        except StopIteration as end:
            return end.value, count
        count += 1


def test_each_has_its_turn_in_every_round(work: Work) -> None:
    """The shortest duration counts; slow work runs once in a round, until time is up."""
    works = {"a": work.taking("a", 0.5, 0.2, 0.4), "b": work.taking("b", 0.3)}
    assert compare(works, 1.5) == (pytest.approx({"a": 0.2, "b": 0.3}), 6)
    assert work.runs == ["a", "b"] * 3


def test_short_work_is_repeated(work: Work) -> None:
    """As its first run may wait for threads; the number of rounds is limited."""
    durations, yields = compare({"a": work.taking("a", 0.01, 0.002)}, 1.0)
    assert durations == pytest.approx({"a": 0.002})
    assert (len(work.runs), yields) == (15, 5)


def test_what_takes_very_long_is_not_compared(work: Work) -> None:
    """Its first run shows it."""
    works = {"a": work.taking("a", 6.0), "b": work.taking("b", 1.0)}
    assert compare(works, 1.0) == ({}, 0)
    assert work.runs == ["a"]


def test_other_programs_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the preemptions a second: 20, and 2 of each thread."""
    clock, preemptions = [0.0], [5]
    monkeypatch.setattr(timing.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(timing, "_preemptions", lambda: preemptions[0])
    disturbance = timing.Disturbance(2)
    clock[0], preemptions[0] = 3.0, 5 + 72
    assert not disturbance
    preemptions[0] += 1
    assert disturbance
