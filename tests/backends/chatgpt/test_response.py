"""What is made of the objects in which an answer comes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends._cloud.json_reader import Event, NotJson
from backends._cloud.not_understood import MOST_NOTED
from backends._cloud.sentences import BROKEN_OFF, CUT_BY_LENGTH, ENDED_ODDLY
from backends.chatgpt.response import CompletionParser


def delta(**part: Any) -> dict[str, Any]:
    """Return the object of a piece."""
    return {"choices": [{"index": 0, "delta": part}]}


def choice(**fields: Any) -> dict[str, Any]:
    """Return an object with one choice."""
    return {"choices": [fields]}


def parsed(*objects: Any, **options: Any) -> tuple[str, CompletionParser]:
    """Return the text of an answer, and its parser."""
    answer = CompletionParser(**options)
    events = [one if isinstance(one, Event) else Event(one) for one in objects]
    return "".join(map(answer.feed, events)) + answer.finish(), answer


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (delta(content="a"), "a"),
        (delta(role="assistant"), ""),
        (delta(content=None), ""),
        (delta(content=["a"]), "a"),
        (delta(content=7), "7"),
        (delta(content=[{"type": "text", "text": "a"}]), "a"),
        (delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]), ""),
        (delta(refusal="I cannot."), "I cannot."),
        (delta(content="a", refusal="b"), "ab"),
        (delta(content="", text="x"), ""),
        (delta(text="a"), "a"),
        (delta(reasoning_content="hm"), ""),
        ({"choices": []}, ""),
        ({"choices": None}, ""),
        ({"choices": [None, 1]}, ""),
        ({"choices": {"delta": {"content": "a"}}}, "a"),
        (choice(delta="a"), "a"),
        (choice(index="0", delta={"content": "a"}), "a"),
        (choice(index=1, delta={"content": "the only one"}), "the only one"),
        (choice(delta=None, text="old kind"), "old kind"),
        (choice(message={"content": "whole"}), "whole"),
        (choice(delta={}, message={"content": "whole"}), "whole"),
        (choice(delta={"content": "a"}, message={"content": "a"}, text="a"), "a"),
        ({"message": {"content": "a"}, "done": False}, "a"),
        ({"response": "a", "done": False}, "a"),
        ({"response": "a"}, "a"),
        ({"usage": {"prompt_tokens": "many"}, "choices": []}, ""),
        ({"id": "x"}, ""),
    ],
)
def test_the_text_of_an_object(found: Any, text: str) -> None:
    """Nothing of it may be taken for granted."""
    assert parsed(found)[0] == text


@pytest.mark.parametrize(
    ("objects", "text"),
    [
        ([delta(content="a"), delta(content="b"), choice(message={"content": "ab"})], "ab"),
        ([choice(delta={"content": one}, message={"content": "ab"[:n]}) for n, one in
          enumerate("ab", 1)], "ab"),
        ([choice(message={"content": "ha"}), choice(message={"content": "haha"})], "hahaha"),
        ([choice(text="a"), choice(text="a")], "aa"),
        ([choice(index=n % 2, delta={"content": str(n)}) for n in range(4)], "02"),
        ([{"choices": [{"index": 1, "delta": {"content": "b"}},
                       {"index": 0, "delta": {"content": "a"}}]}], "a"),
    ],
)  # fmt: skip
def test_no_text_is_shown_twice(objects: list[Any], text: str) -> None:
    """Of two fields the first that brings text counts, of two choices the first that comes."""
    assert parsed(*objects)[0] == text


@pytest.mark.parametrize("text", ["{", "{oops}", "[{", "[oops"])
def test_a_damaged_event_is_refused(text: str) -> None:
    """A part of the answer would be lost in silence."""
    with pytest.raises(ValueError, match="no JSON"):
        CompletionParser().feed(Event(NotJson(text)))


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (Event(NotJson("secret words"), "ping"), "text in an event named ping"),
        (Event(NotJson("secret words")), "text"),
        (Event("secret words"), "str"),
        (Event(7), "int"),
        (Event(None), "NoneType"),
        (Event({"id": "secret", "x": 1}), "an object with id, x"),
        (Event({}), "an object with nothing"),
        (Event({"x" * 99: 1}), f"an object with {'x' * 40}"),
        (Event(delta(content=[{"type": "image_url"}])), "a part of the type image_url"),
        (Event(delta(content=True)), "true or false as text"),
    ],
)
def test_what_is_not_understood_is_told(event: Event, kind: str) -> None:
    """By its kind, without its words, and once."""
    text, answer = parsed(event, event)
    assert (text, answer.not_understood) == ("", [kind])


@pytest.mark.parametrize(
    "event",
    [
        Event({"type": "ping"}),
        Event({}, "ping"),
        Event({"usage": {"prompt_tokens": 1}}),
        Event({"choices": [], "usage": None}),
        Event(NotJson("[DONE]")),
        Event(delta(content=[{"type": "reference", "reference_ids": [1]}])),
    ],
)
def test_what_is_known_to_have_no_text_is_not_told(event: Event) -> None:
    """A ping, token counts, the end, a reference."""
    assert parsed(event)[1].not_understood == []


def test_what_is_told_is_bounded() -> None:
    """Whatever a service sends."""
    assert len(parsed(*({str(n): 1} for n in range(99)))[1].not_understood) == MOST_NOTED


def test_a_character_may_come_in_two_halves() -> None:
    """As two escapes in two objects; half of one is no text."""
    first, second = (
        Event(json.loads(b'{"choices": [{"delta": {"content": "%b"}}]}' % half))
        for half in (b"a\\ud83d", b"\\ude00b")
    )
    answer = CompletionParser()
    empty = Event(delta(content=""))
    assert [answer.feed(first), answer.feed(empty), answer.feed(second)] == ["a", "", "😀b"]
    assert answer.feed(first) + answer.finish() == "a\ufffd"
    assert answer.feed(second) == "\ufffdb"


def test_how_an_answer_ends() -> None:
    """By a reason, by [DONE], by Ollama's done, or not at all."""
    assert parsed()[1].finish_note() == BROKEN_OFF
    for last in (
        Event(NotJson(" [DONE] ")),
        Event(choice(delta={}, finish_reason="stop")),
        Event(choice(delta={}, finish_reason="STOP")),
        Event({"message": {"content": ""}, "done": True}),
        Event({"message": {"content": ""}, "done": True, "done_reason": "stop"}),
    ):
        answer = parsed(last)[1]
        assert (answer.ended, answer.finish_note()) == (True, "")
        assert not answer.usage.is_cut
    for reason in ("length", "MAX_TOKENS", "model_length"):
        answer = parsed(choice(finish_reason=reason))[1]
        assert (answer.finish_note(), answer.usage.is_cut) == (CUT_BY_LENGTH, True)
    odd = parsed(choice(finish_reason="lunch"))[1]
    assert odd.finish_note() == ENDED_ODDLY.format("lunch")


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "no"}, "choices": []},
        {"error": "no"},
        {"object": "error", "message": "no", "code": 400},
        {"type": "error", "message": "no"},
        {"text": "no", "error_code": 50001},
        {"errors": [{"message": "no"}]},
        {"detail": "no"},
        {"message": "no", "code": "bad"},
    ],
)
def test_an_error_is_kept(error: dict[str, Any]) -> None:
    """In each of the shapes that services give it; text beside it is shown."""
    text, answer = parsed(delta(content="a"), error)
    assert (text, answer.error, answer.not_understood) == ("a", error, [])
    text, answer = parsed({**error, **delta(content="a"), "error": "no"})
    assert (text, answer.error["error"]) == ("a", "no")


def test_an_error_may_stand_in_a_choice_or_in_an_events_name() -> None:
    """As OpenRouter has it; and an event may be named so."""
    failed = {"delta": {"content": "a"}, "finish_reason": "error", "error": {"code": 502}}
    text, answer = parsed({"choices": [failed]})
    assert (text, answer.error) == ("a", failed)
    assert parsed(Event({"message": "no"}, "error"))[1].error == {"message": "no"}
    assert parsed(Event(NotJson("{half"), "error"))[1].error == "{half"
    assert parsed(Event(NotJson(), "error"))[1].error


def test_reasoning_comes_by_the_paragraph() -> None:
    """Before the text that ends it, whether in a field of its own or a part of the content."""
    objects = [delta(reasoning="a\n\nb"), delta(reasoning=" <<</WARNING>>>c"), delta(content="d")]
    notes = "<<<WARNING>>>a<<</WARNING>>><<<WARNING>>>b c<<</WARNING>>>"
    assert parsed(*objects, thinking="note")[0] == notes + "d"
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "a\n\nb c"}]}
    parts = [delta(content=[thinking]), delta(content=[{"type": "text", "text": "d"}])]
    assert parsed(*parts, thinking="note")[0] == notes + "d"
    assert parsed(*parts)[0] == "d"
    long = parsed(*[delta(reasoning="x" * 999)] * 3, thinking="note")[0]
    assert long == f"<<<WARNING>>>{'x' * 2997}<<</WARNING>>>"
