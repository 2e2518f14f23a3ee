"""What a model reads as its own earlier answers has no markup."""

from __future__ import annotations

from backends._local.markup import MarkupFilter
from tests.support import local_chats


def filtered(text: str, *marks: str) -> str:
    """Return the text of an assistant's message behind the filter."""
    chat = MarkupFilter(marks).apply(local_chats.chat("<s>", text, "<s>"))
    assert [chat[0], chat[2]] == local_chats.chat("<s>") * 2, "users say what they like"
    return chat[1]["content"]


def test_markup_that_a_model_spelled_out_is_removed() -> None:
    """All of it, the longest mark first."""
    assert filtered("a<s>b</s>\n<s>", "<s>", "</s>") == "ab\n"
    assert filtered("a<|end|><|x|>", "<|end|>", "<|end|><|x|>") == "a"
    assert filtered("a<s>b") == "a<s>b"
    assert filtered("<｜User｜>a.*", "<｜User｜>", "[.*]") == "a.*"


def test_a_removed_mark_leaves_none() -> None:
    """What stood around it may be a mark together; there is a space instead, which ends it all."""
    assert filtered("a<|e<|end|>nd|>b", "<|end|>") == "a b"
    assert filtered("<<<s>s>s>", "<s>") == "< s>"


def test_marks_may_begin_alike() -> None:
    """Vocabularies number what they have reserved; the longest mark counts wherever one ends."""
    marks = [f"<unused{number}>" for number in range(1000)]
    text = "".join(f"{number}{mark}" for number, mark in enumerate(marks))
    assert filtered(text + "<unused1000><unused", *marks, *marks) == (
        "".join(map(str, range(1000))) + "<unused1000><unused"
    )
    assert filtered("<a><a>>.<a>>>", "<a>", "<a>>", "<a>>>") == "."


def test_what_may_be_a_word_is_no_markup() -> None:
    """Some vocabularies have special tokens that are words, or white space."""
    assert filtered("sopa\n\n -> gMASK", "sop", "\n\n\n", "\n", " ", "", "->", "a") == (
        "sopa\n\n -> gMASK"
    )
    assert filtered("a [gMASK]b", "[gMASK]") == "a b"
