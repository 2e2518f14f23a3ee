"""Control tokens are found by their texts, as tokenizers find them."""

from __future__ import annotations

from typing import Any

import pytest

from backends._local.tokenizing.control_tokens import ControlToken, ControlTokens


def known(*texts: str, **more: Any) -> ControlTokens:
    """Return control tokens of these texts."""
    return ControlTokens([ControlToken(at, text) for at, text in enumerate(texts)], **more)


def found(text: str, *texts: str) -> list[str]:
    """Return what is found in a text."""
    return [one[0] for one in known(*texts).find(text)]


def test_the_longest_text_at_the_first_place_counts() -> None:
    """Vocabularies number what they have reserved, so that texts begin alike."""
    assert found("a<s>b</s>\n<s>", "<s>", "</s>") == ["<s>", "</s>", "<s>"]
    assert found("a<|end|><|x|>", "<|end|>", "<|end|><|x|>") == ["<|end|><|x|>"]
    assert found("<a><a>>.<a>>>", "<a>", "<a>>", "<a>>>") == ["<a>", "<a>>", "<a>>>"]
    assert found("<｜User｜>a.*[.*]", "<｜User｜>", "[.*]") == ["<｜User｜>", "[.*]"]
    assert found("a<s>", "") == found("a<s>") == []
    marks = [f"<unused{number}>" for number in range(1000)]
    text = "".join(f"{number}{mark}" for number, mark in enumerate(marks))
    assert found(text + "<unused1000><unused", *marks, *marks) == marks


def test_white_space_is_no_control_token() -> None:
    """Some vocabularies say so."""
    assert found("a\n\n b", "\n\n", "\n", " ") == []


def test_a_word_may_be_a_control_token() -> None:
    """In words, too, unless it says that it is one by itself."""
    assert found("sopa sop", "sop") == ["sop", "sop"]
    single = ControlTokens([ControlToken(0, "sop", single_word=True), ControlToken(1, "<s>")])
    assert [one.start() for one in single.find("sopa asop <s>sop<s>sop")] == [10, 13, 16, 19]


def test_tokens_without_weights_are_found_and_are_none() -> None:
    """Their ids are known, so that they are noticed in what a library returns."""
    tokens = known("<s>", weightless=[ControlToken(7, "<pad>")])
    assert [one[0] for one in tokens.find("<s><pad>")] == ["<s>", "<pad>"]
    assert [*tokens.by_text] == ["<s>"]
    assert tokens.ids == {0, 7}
    assert known("<unk>", "<s>", also_ordinary=[0, 99]).ids == {1}


@pytest.mark.parametrize(
    ("text", "is_suspect"),
    [
        ("Hello, world! (1 + 1)", False),
        ("  \n", False),
        ("", False),
        ("a > b", True),
        ("a <", True),
        ("im_", True),
        (" |im_start|\n", True),
        ("im_ as a part of more", False),
        ("im_starts", False),
    ],
)
def test_text_that_may_be_a_part_of_a_control_token_is_suspect(text: str, is_suspect: bool) -> None:
    """It has the first or the last character, or it is the midst."""
    assert bool(known("<|im_start|>", "<s>").suspects(text)) is is_suspect
    assert not known().suspects(text)
