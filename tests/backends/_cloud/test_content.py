"""The texts of a content, whatever JSON it is."""

from __future__ import annotations

from typing import Any

import pytest

from backends._cloud.content import pieces


def texts(content: Any) -> tuple[str, str, list[str]]:
    """Return the text, the reasoning and what is unknown."""
    found = list(pieces(content))
    said = "".join(one.text for one in found if not one.is_reasoning)
    return (
        said,
        "".join(one.text for one in found if one.is_reasoning),
        [one.unknown for one in found if one.unknown],
    )


def part(kind: str, **fields: Any) -> dict[str, Any]:
    """Return a part of a content."""
    return {"type": kind, **fields}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        (None, ""),
        ("", ""),
        (42, "42"),
        (0, "0"),
        (1.5, "1.5"),
        ([], ""),
        (["a", "b"], "ab"),
        ([["a", ["b"]], "c"], "abc"),
        ([part("text", text="a"), part("text", text=" b")], "a b"),
        (part("text", text="a"), "a"),
        ({"text": "a"}, "a"),
        ([part("text", text={"value": "a", "annotations": []})], "a"),
        ([part("output_text", text="a")], "a"),
        ([part("something_new", text="a")], "a"),
        ([part("refusal", refusal="no")], "no"),
        ([part("text", text="")], ""),
        ([part("text", text=None), part("text", text="a")], "a"),
        ([part("reference", reference_ids=[1, 2]), part("text", text="a")], "a"),
        ({"parts": [{"text": "a"}]}, "a"),
    ],
)
def test_the_text_of_a_content(content: Any, text: str) -> None:
    """In its order; a number is its text, null is none."""
    assert texts(content) == (text, "", [])


def test_reasoning_is_told_from_text() -> None:
    """However deep it stands (Magistral)."""
    thinking = part("thinking", thinking=[part("text", text="a"), part("text", text="b")])
    assert texts([thinking, part("text", text="c")]) == ("c", "ab", [])
    assert texts([part("thinking", thinking="a")]) == ("", "a", [])
    assert texts([part("reasoning", summary=[part("summary_text", text="a")])]) == ("", "a", [])
    parts = [{"text": "a", "thought": True}, {"text": "b", "thought": False}]
    assert texts({"role": "model", "parts": parts}) == ("b", "a", [])
    assert texts([part("redacted_thinking", data="x")]) == ("", "", [])


@pytest.mark.parametrize(
    ("content", "unknown"),
    [
        ([part("image_url", image_url={"url": "x"})], "a part of the type image_url"),
        ([{}], "a part with nothing"),
        ({"parts": [{"inlineData": {"data": "x"}}]}, "a part with inlineData"),
        (True, "true or false as text"),
    ],
)
def test_what_has_no_text_is_named(content: Any, unknown: str) -> None:
    """By its type, without its words."""
    assert texts(content) == ("", "", [unknown])


def test_nothing_is_nested_too_deeply() -> None:
    """For the stack."""
    content: Any = "a"
    for _ in range(100_000):
        content = [content]
    assert texts(content)[0] == "a"
