"""Links of a chat: where they stand, how they are named, what stands for their files."""

from __future__ import annotations

import pytest

from backends._media.links import (
    OBJECT_REPLACEMENT,
    UNREADABLE,
    Link,
    find_links,
    placeholder,
    placeholder_numbers,
    side_note,
    split,
    with_placeholders,
    with_texts,
    without_data,
    without_placeholders,
)
from backends._media.sentences import LINK_DAMAGED, LINK_NO_FILE, MORE_LINKS
from kuwa_min.chat.side_notes import NOTE_BEGIN, NOTE_END


def user(text: str) -> dict[str, str]:
    """Return a message of the user."""
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    """Return a message of the assistant."""
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://a/b.png\nwhat is it?", ["http://a/b.png"]),
        ("What is http://a/b.png?", ["http://a/b.png"]),
        ("看 https://a/b.png。", ["https://a/b.png"]),
        ("![it](https://a/b.png) please", ["https://a/b.png"]),
        ("http://a/ or HTTPS://b/", ["http://a/", "HTTPS://b/"]),
        ("so data:image/png;base64,AA== so", ["data:image/png;base64,AA=="]),
        ("data:application/pdf;base64,AA==", ["data:application/pdf;base64,AA=="]),
        ("the scheme data: and data:text/html,<p>", []),
    ],
)
def test_links_are_found_in_what_the_user_says(text: str, urls: list[str]) -> None:
    """The first one first, without the punctuation of the sentence."""
    assert [link.url for link in find_links([bot("http://c/"), user(text)])] == urls


def test_signs_stand_where_the_links_stood() -> None:
    """A link without a file stays; the caller's list is not changed."""
    history = [user("http://a/\nCompare http://b/ with http://c/."), bot("x"), user("http://d/")]
    links = dict(enumerate(find_links(history)))
    signed = with_placeholders(history, links, {0, 2, 3})
    assert signed[0] == user(f"{placeholder(0)}\nCompare http://b/ with {placeholder(2)}.")
    assert signed[1:] == [bot("x"), user(placeholder(3))]
    assert placeholder_numbers(signed[0]["content"]) == [0, 2]
    texts = {number: link.text for number, link in links.items()}
    assert with_texts(signed, texts) == history
    assert history[2] == user("http://d/")


def test_a_message_is_split_at_its_files() -> None:
    """The white space around a file goes, all other stays; an unknown placeholder is left out."""
    text = f" {placeholder(0)}\n\nCompare\nit {placeholder(1)} with {placeholder(7)}. "
    assert list(split(text, {0: 10, 1: 11})) == [10, "Compare\nit", 11, "with", ". "]
    assert list(split("  as it is\n", {})) == ["  as it is\n"]
    assert list(split("", {})) == []


def test_a_sign_cannot_be_typed() -> None:
    """Or a chat had a place for a file that is not there."""
    assert without_placeholders([user(f"a{placeholder(1)}b"), bot(OBJECT_REPLACEMENT)]) == [
        user("a1b"),
        bot(""),
    ]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/storage/root/homes/3/%E5%9C%96%201.png", "圖 1.png"),
        ("http://h/a/b/?q=1", "b"),
        ("http://h", "h"),
        ("http://me:secret@h/", "h"),
        ("http://h/%3C%3C%3C/WARNING%3E%3E%3E", "WARNING???"),
        ("http://h/a%0Ab", "a?b"),
        ("http://h/" + "x" * 99, "x" * 57 + "..."),
        ("data:image/png;base64,AAAA", "data:image/png"),
        ("data:image/png,hello", "data:image/png"),
        ("http://[::1", "a link"),
    ],
)
def test_a_link_has_a_short_name(url: str, name: str) -> None:
    """On one line, without a password, and nothing in it ends a side note."""
    assert Link(0, 0, url).name == name


def test_a_long_data_url_is_no_text_for_a_model() -> None:
    """A short mark stands for it; what is short may be what the question is about."""
    assert Link(0, 0, "data:image/png;base64," + "A" * 300).text == UNREADABLE
    assert Link(0, 0, "data:image/png;base64,AA").text == "data:image/png;base64,AA"
    assert Link(0, 0, "http://h/" + "A" * 300).text == "http://h/" + "A" * 300


def test_one_side_note_says_it_all() -> None:
    """Each sentence once, a few of them, in the user's language."""
    notes = [LINK_DAMAGED.format(name) for name in ("a", "b", "a", "c", "d", "e")]
    text = side_note(notes)
    assert text.startswith(f"{NOTE_BEGIN}a was not read: it is damaged. b was not read")
    assert text.endswith(f"it is damaged. {MORE_LINKS.format(2)}{NOTE_END}")
    assert text.count(NOTE_BEGIN) == 1
    assert "未讀取 a：檔案已損壞。 未讀取 b" in side_note(notes).render("zh")
    assert side_note([]) == ""


def test_what_a_text_holds_is_taken_out_for_models_that_read_text_only() -> None:
    """The last message's is named; a short one, and a link, is text."""
    long = "data:image/png;base64," + "A" * 300
    history = [
        {"role": "user", "content": f"This: {long}"},
        {"role": "assistant", "content": f"A {long}?"},
        {"role": "user", "content": f"No,\n{long} data:image/png;base64,AAAA http://a/b.png"},
    ]
    shown, notes = without_data(history)
    assert [one["content"] for one in shown] == [
        f"This: {UNREADABLE}",
        history[1]["content"],
        f"No,\n{UNREADABLE} data:image/png;base64,AAAA http://a/b.png",
    ]
    assert notes == (LINK_NO_FILE.format("data:image/png"),)
    assert without_data(shown)[0] == shown
    plain = [{"role": "user", "content": "No data"}]
    assert without_data(plain) == (plain, ())
