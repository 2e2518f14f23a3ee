"""Earlier answers are read without what was thought before them."""

from __future__ import annotations

import pytest

from kuwa_min.chat.thinking.history import without_thoughts

from .samples import ANSWER, SAMPLES


@pytest.mark.parametrize("name", SAMPLES)
def test_thoughts_of_all_formats_are_left_out(name: str) -> None:
    """Also those whose beginning a template wrote, of which only the end stands in the answer."""
    assert without_thoughts(SAMPLES[name].text).strip() == ANSWER


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("analysisThe person greets.assistantfinalHello!", "Hello!"),  # as we once showed it
        ("<think>only a thought", ""),
        ("<think>\n\n</think>\n\nHi", "Hi"),
        ("Hi", "Hi"),
        ("", ""),
        ("analysisOf something", "analysisOf something"),
        ("The tag </think> ends\n it.", "The tag </think> ends\n it."),
        ("Write:\n<think>\na\n</think>\n", "Write:\n<think>\na\n</think>\n"),
    ],
)
def test_odd_answers(text: str, left: str) -> None:
    """An answer about tags stays as it is."""
    assert without_thoughts(text) == left
