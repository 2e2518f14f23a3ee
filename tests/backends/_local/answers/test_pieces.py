"""The pieces of an answer, from a request that an engine would fill."""

from __future__ import annotations

from typing import Any

import pytest

from backends._local.answers.pieces import pieces
from backends._local.request import Request
from kuwa_min.chat import catalog
from kuwa_min.chat.chunks import ProgressChunk, ThoughtChunk
from kuwa_min.chat.thinking import signs
from kuwa_min.chat.thinking.display import APART, HIDE

OPTIONS = {"thinking_tokens": None}


def collect(request: Request) -> list[Any]:
    """Return the pieces: texts, thoughts in brackets."""
    return [[one.text] if isinstance(one, ThoughtChunk) else one for one in pieces(request)]


def test_thoughts_come_apart_before_the_answer() -> None:
    """In as many pieces as were handed over, without the white space around them."""
    one = Request([1], OPTIONS, thinking=APART, stop=["STOP"])
    for text in ("<think>\n", "Hm", " STOP so.", "\n</think>\n\nHel", "lo STOP"):
        one.emit(text)
        one.flush()
    one.prompt_note = "a note"
    one.finish()
    found = collect(one)
    assert "".join(text for part in found if isinstance(part, list) for text in part) == (
        "Hm STOP so.\n"
    )
    assert "".join(part for part in found if isinstance(part, str)) == "Hello a note"
    assert found[-1] == "a note"


def test_an_answer_may_be_a_thought_only() -> None:
    """It is said."""
    one = Request([1], OPTIONS, thinking=APART)
    one.emit("<think>Hm")
    one.finish()
    assert collect(one) == [["Hm"], catalog.ONLY_THOUGHT]


@pytest.mark.parametrize("mode", [HIDE, APART])
def test_a_silent_thought_gives_signs_of_life(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is shown, but nothing new of it came."""
    monkeypatch.setattr(signs.SignsOfLife, "interval", 0.001)
    one = Request([1], OPTIONS, thinking=mode)
    one.emit("<think>Hm")
    one.flush()
    found = pieces(one)
    if mode == APART:
        assert isinstance(next(found), ThoughtChunk)
    assert isinstance(next(found), ProgressChunk)
    one.cancel()
    assert list(found) == []
