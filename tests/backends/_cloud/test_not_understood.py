"""What the log says of answers that are not understood."""

from __future__ import annotations

from typing import Any

import pytest

from backends._cloud.json_reader import Event, NotJson
from backends._cloud.not_understood import (
    MOST_NOTED,
    MOST_REPORTED,
    NotUnderstood,
    describe,
    note,
    short,
)


def test_each_kind_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """And no more of them than an operator would read."""
    found = NotUnderstood()
    for kinds in ([], ["a", "b"], ["b", "c"], ["a"]):
        found.report(kinds)
    lines = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert lines == ["a; b", "c"]
    for number in range(99):
        found.report([str(number)])
    assert len(caplog.records) == 2 + MOST_REPORTED - 3


def test_the_kinds_of_one_answer_are_bounded() -> None:
    """And each is there once."""
    kinds: list[str] = []
    for number in range(99):
        note(kinds, str(number // 2))
    assert kinds == [str(number) for number in range(MOST_NOTED)]


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (NotJson("secret"), "", "text"),
        (NotJson("secret"), "ping", "text in an event named ping"),
        ("secret", "", "str"),
        (None, "x\ny", "NoneType in an event named xy"),
        ({"a": "secret", "b": 1}, "", "an object with a, b"),
        ({}, "", "an object with nothing"),
        ({"type": "ping"}, "", ""),
        ({"a": 1}, "ping", ""),
    ],
)
def test_a_kind_says_no_word_of_the_answer(data: Any, name: str, kind: str) -> None:
    """But names of fields and events; of a ping nothing at all."""
    assert describe(Event(data, name)) == kind


def test_names_are_short_and_printable() -> None:
    """Whatever a service sends."""
    assert short("a\x1b\nb" + "c" * 99) == "ab" + "c" * 38
