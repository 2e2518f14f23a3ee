"""Whose tokens a step computes, where chats have other adapters."""

from __future__ import annotations

import pytest

pytest.importorskip("llama_cpp", reason="the llamacpp backend needs llama-cpp-python")

from backends.llamacpp.batching import step_planner
from backends.llamacpp.batching.step_planner import AdapterTurns

pytestmark = pytest.mark.slow  # the import


def run(turns: AdapterTurns, running: str, steps: int) -> str:
    """Return the choices of some steps while these run, a letter each."""
    return "".join(turns.choose(list(running)) for _ in range(steps))


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> AdapterTurns:
    """Return turns that end by steps alone."""
    monkeypatch.setattr(step_planner, "TURN_SECONDS", float("inf"))
    return AdapterTurns()


def test_chats_with_the_same_adapters_have_all_steps(turns: AdapterTurns) -> None:
    """Also after another one has left."""
    assert run(turns, "a", 9) == "a" * 9
    assert run(turns, "b", 3) == "bbb"


def test_others_take_turns_of_as_many_steps(turns: AdapterTurns) -> None:
    """In an order that leaves out none; one that comes has its turn soon."""
    assert run(turns, "abc", 24) == "aaaabbbbcccc" * 2
    assert run(turns, "ac", 8) == "aaaacccc"
    assert run(turns, "cda", 12) == "ddddaaaacccc"


def test_a_long_turn_ends_when_another_comes(turns: AdapterTurns) -> None:
    """It had its share."""
    run(turns, "a", 100)
    assert run(turns, "ab", 9) == "bbbbaaaab"


def test_one_that_ends_within_its_turn_leaves_the_rest_to_others(turns: AdapterTurns) -> None:
    """Whose turn is a whole one."""
    assert run(turns, "ab", 2) == "aa"
    assert run(turns, "bc", 8) == "bbbbcccc"


def test_where_steps_are_slow_a_turn_is_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the others' texts go on."""
    monkeypatch.setattr(step_planner, "TURN_SECONDS", -1.0)
    assert run(AdapterTurns(), "ab", 6) == "ababab"
