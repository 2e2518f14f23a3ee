"""The text of an answer: thoughts as asked for, stop words in the answer only."""

from __future__ import annotations

import re

import pytest

from kuwa_min.chat.thinking.answer_text import AnswerText
from kuwa_min.chat.thinking.splitter import ThoughtSplitter

from .samples import ANSWER, SAMPLES, THOUGHT

MARKS = re.compile("<<<WARNING>>>|<<</WARNING>>>")


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize(
    ("mode", "before"),
    [("hide", ""), ("note", THOUGHT), ("show", f"<think>{THOUGHT}</think>")],
)
def test_thoughts_are_shown_as_asked_for(name: str, mode: str, before: str) -> None:
    """The answer is the same in all modes, and so are the tags around a thought."""
    sample = SAMPLES[name]
    for size in (1, 3, 1000):
        one = AnswerText(ThoughtSplitter(sample.prompt_end), mode)
        pieces = [one.feed(text, hidden=hidden) for text, hidden in sample.pieces(size)]
        shown = "".join([*pieces, one.finish()]).rstrip()
        assert shown.endswith(ANSWER)
        thought = MARKS.sub("", shown.removesuffix(ANSWER))
        assert "".join(thought.split()) == "".join(before.split())
        assert (MARKS.search(shown) is not None) == (mode == "note")
        assert not one.is_only_thought


def test_stop_words_count_in_the_answer_only() -> None:
    """A thought may hold them; a tag is no part of the answer, a special token's markup is."""
    one = AnswerText(stop=["User:", "END</s>"])
    assert one.feed("<think>User: END") == ""
    assert one.feed("</s>", hidden=True) == ""
    assert (one.feed("</think>"), one.hit, one.is_thinking) == ("", False, False)
    assert one.feed("A ") == "A "
    assert (one.feed("END"), one.hit) == ("", False)
    assert (one.feed("</s>", hidden=True), one.hit) == ("", True)
    assert (one.feed("more"), one.finish()) == ("", "")


def test_it_tells_whether_it_thinks_and_whether_there_was_an_answer() -> None:
    """An answer may consist of a thought."""
    one = AnswerText()
    assert not one.is_thinking and not one.is_only_thought
    one.feed("<think>Hm")
    assert (one.is_thinking, one.closing, one.is_only_thought) == (True, "\n</think>\n\n", True)
    one.feed("</think>\n\n")
    assert not one.is_thinking and one.is_only_thought
    one.feed("Hi")
    assert not one.is_thinking and not one.is_only_thought
    empty = AnswerText()
    assert (empty.finish(), empty.is_only_thought) == ("", False)


def test_what_a_service_calls_a_thought_is_one() -> None:
    """Whatever it looks like; the next text ends it."""
    one = AnswerText(mode="show")
    assert one.think("a") + one.think(" b") + one.feed("Hi") + one.finish() == (
        "<think>a b</think>\n\nHi"
    )
