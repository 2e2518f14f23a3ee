"""What is made of the objects in which an answer comes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends._cloud.sentences import BROKEN_OFF
from backends.chatgpt.response import CompletionParser


def delta(**part: Any) -> dict[str, Any]:
    """Return the object of a piece."""
    return {"choices": [{"index": 0, "delta": part}]}


def text_of(*objects: Any, **options: Any) -> str:
    """Return the text of an answer."""
    answer = CompletionParser(**options)
    return "".join(answer.feed(json.dumps(one).encode()) for one in objects) + answer.finish()


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (delta(content="a"), "a"),
        (delta(role="assistant"), ""),
        (delta(content=None), ""),
        (delta(content=["a"]), ""),
        (delta(refusal="I cannot."), "I cannot."),
        (delta(reasoning_content="hm"), ""),
        ({"choices": []}, ""),
        ({"choices": None}, ""),
        ({"choices": [None, 1]}, ""),
        ({"choices": [{"index": 1, "delta": {"content": "second"}}]}, ""),
        ({"choices": [{"delta": None, "text": "old kind"}]}, "old kind"),
        ({"choices": [{"message": {"content": "whole"}}]}, "whole"),
        ({"usage": {"prompt_tokens": "many"}, "choices": []}, ""),
        ({"id": "x"}, ""),
    ],
)
def test_the_text_of_an_object(found: Any, text: str) -> None:
    """Nothing of it may be taken for granted."""
    assert text_of(found) == text


@pytest.mark.parametrize("event", [b"", b"[1]", b"1", b"null", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(event: bytes) -> None:
    """As a ValueError, even if Python would run out of stack."""
    with pytest.raises(ValueError, match=r".*"):
        CompletionParser().feed(event)


def test_a_character_may_come_in_two_halves() -> None:
    """As two escapes in two objects; half of one is no text."""
    first, second = (
        b'{"choices": [{"delta": {"content": "%b"}}]}' % h for h in (b"a\\ud83d", b"\\ude00b")
    )
    answer = CompletionParser()
    assert [answer.feed(first), answer.feed(second), answer.finish()] == ["a", "😀b", ""]
    assert answer.feed(first) + answer.finish() == "a\ufffd"
    assert answer.feed(second) == "\ufffdb"


def test_how_an_answer_ends() -> None:
    """By a reason, by [DONE], or not at all."""
    answer = CompletionParser()
    assert (answer.ended, answer.finish_note()) == (False, BROKEN_OFF)
    answer.feed(b" [DONE] ")
    assert (answer.ended, answer.finish_note()) == (True, "")
    answer = CompletionParser()
    answer.feed(b'{"choices": [{"delta": {}, "finish_reason": "stop"}]}')
    assert (answer.ended, answer.finish_note()) == (True, "")


def test_an_error_is_kept() -> None:
    """Whatever else came before."""
    answer = CompletionParser()
    assert answer.feed(b'{"error": {"message": "no"}, "choices": []}') == ""
    assert answer.error == {"message": "no"}


def test_reasoning_comes_by_the_paragraph() -> None:
    """Each a side note that is closed, so that a stop leaves none open; marks in them go."""
    objects = [delta(reasoning="a\n\nb"), delta(reasoning=" <<</WARNING>>>c"), delta(content="d")]
    notes = "<<<WARNING>>>a<<</WARNING>>><<<WARNING>>>b c<<</WARNING>>>"
    assert text_of(*objects, show_reasoning=True) == notes + "d"
    long = text_of(*[delta(reasoning="x" * 999)] * 3, show_reasoning=True)
    assert long == f"<<<WARNING>>>{'x' * 2997}<<</WARNING>>>"
