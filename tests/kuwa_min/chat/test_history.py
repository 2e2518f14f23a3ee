"""The chat history: Kuwa's form of it to the one that models read."""

from __future__ import annotations

import copy

import pytest

from kuwa_min.chat.history import (
    extract_last_url,
    keep_client_system,
    rectify_chat_history,
    to_openai_chat_format,
)

from .messages import History, assistant, system, user


def test_isbot_is_the_role_and_msg_the_content() -> None:
    """Bots are assistants, all others are users; a null text is an empty one."""
    assert to_openai_chat_format(
        [
            {"isbot": False, "msg": "hello"},
            {"isbot": True, "msg": "世界"},
            {"isbot": True, "msg": None},
            {"isbot": False, "msg": ""},
            {"isbot": False, "msg": None},
        ]
    ) == [user("hello"), assistant("世界"), assistant(""), user(""), user("")]


def test_nothing_said_stays_nothing() -> None:
    """An empty history has no messages."""
    assert to_openai_chat_format([]) == []
    assert rectify_chat_history([]) == []
    assert extract_last_url([]) == (None, [])


def test_a_message_without_msg_says_nothing() -> None:
    """A missing msg is an empty text, like a null one."""
    assert to_openai_chat_format([{"isbot": False}]) == [user("")]


@pytest.mark.parametrize(
    ("isbot", "role"),
    [
        (True, "assistant"),
        (1, "assistant"),
        ("1", "assistant"),
        ("true", "assistant"),
        ("t", "assistant"),
        (0.5, "assistant"),
        (False, "user"),
        (0, "user"),
        (None, "user"),
        ("", "user"),
        ("0", "user"),
        ("false", "user"),
        ("FALSE", "user"),
        ("f", "user"),
        ([], "user"),
        ({}, "user"),
    ],
)
def test_the_truth_of_isbot_decides(isbot: object, role: str) -> None:
    """Numbers, booleans, null, and text where a database driver writes text."""
    assert to_openai_chat_format([{"isbot": isbot, "msg": "x"}]) == [{"role": role, "content": "x"}]


def test_without_isbot_it_is_the_user() -> None:
    """A missing isbot is like a null one."""
    assert to_openai_chat_format([{"msg": "x"}]) == [user("x")]


@pytest.mark.parametrize(
    ("msg", "text"),
    [
        (7, "7"),
        (0, "0"),
        (1.5, "1.5"),
        (True, "true"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "image_url", "image_url": {"url": "u"}}, {"type": "text", "text": "a"}], "a"),
        (["a", None, {"text": None}, "b"], "a\nb"),
        ({"type": "text", "text": "a"}, "a"),
        ({}, ""),
        ([], ""),
        ("a\ud800", "a\ufffd"),
    ],
)
def test_a_msg_that_is_no_text_becomes_one(msg: object, text: str) -> None:
    """Numbers as JSON writes them, of OpenAI's content parts the text."""
    assert to_openai_chat_format([{"isbot": False, "msg": msg}]) == [user(text)]


@pytest.mark.parametrize(
    ("history", "kept"),
    [
        ([], []),
        ([user("1")], [user("1")]),
        ([assistant("1"), user("2"), assistant("3")], [system("1"), user("2"), assistant("3")]),
        ([assistant("1"), assistant("2"), user("3")], [system("1"), system("2"), user("3")]),
        ([assistant("1")], [system("1")]),
    ],
)
def test_leading_messages_of_the_assistant_can_be_kept_as_system_messages(
    history: History, kept: History
) -> None:
    """All that stands before the first message of the user."""
    assert keep_client_system(history) == kept


def test_further_keys_of_an_entry_are_left_behind() -> None:
    """Only role and content reach a model."""
    entry = {"isbot": False, "msg": "hello", "id": 7, "role": "system"}
    assert to_openai_chat_format([entry]) == [user("hello")]


@pytest.mark.parametrize(
    ("history", "kept"),
    [
        ([user("1"), assistant("2")], [user("1"), assistant("2")]),
        ([assistant("1"), user("2"), assistant("3")], [user("2"), assistant("3")]),
        ([assistant("1"), assistant("2"), user("3")], [user("3")]),
        ([user("1"), user("2"), assistant("3"), assistant("4")], None),
        ([assistant("1")], []),
        ([assistant("1"), assistant("2")], []),
        ([system("s"), assistant("1"), user("2")], [system("s"), user("2")]),
        ([assistant("1"), system("s"), user("2")], [system("s"), user("2")]),
        ([system("s"), assistant("1")], [system("s")]),
        ([system("s"), user("1"), system("t"), assistant("2")], None),
    ],
)
def test_leading_messages_of_the_assistant_are_dropped(
    history: History, kept: History | None
) -> None:
    """What stands before the first message of the user goes; system messages stay."""
    before = copy.deepcopy(history)
    assert rectify_chat_history(history) == (history if kept is None else kept)
    assert history == before, "the caller's list is not changed"


@pytest.mark.parametrize(
    "url",
    [
        "http://www.example.com",
        "https://www.example.com:8800",
        "https://www.example.com/a/b/c.html",
        "https://www.test.com?pageid=123&testid=1524",
        "https://www.test.com/%E6%B8%AC?q=%E8%A9%A6",
        "https://www.test.com/do.html#A",
        "https://例え.jp/測試",
    ],
)
@pytest.mark.parametrize("form", ["{}", "Read {}", "{} please", "Read {}\n\nplease", "\n{}\n"])
def test_the_url_is_taken_out_of_its_message(url: str, form: str) -> None:
    """URL and text come back apart, with the history from that message on."""
    history = [user("hi"), assistant("hello"), user(form.format(url)), assistant("ok"), user("so?")]
    before = copy.deepcopy(history)
    text = form.format("").strip()
    assert extract_last_url(history) == (url, [user(text), assistant("ok"), user("so?")])
    assert history == before, "the caller's list is not changed"


def test_the_latest_url_of_the_user_wins() -> None:
    """Neither an earlier one nor one of the assistant is meant; of two in one text, the last is."""
    history = [user("http://a/ http://b/"), assistant("http://c/"), user("thanks")]
    assert extract_last_url(history) == ("http://b/", [user(""), *history[1:]])


@pytest.mark.parametrize("index", range(4))
def test_a_url_is_found_in_any_message(index: int) -> None:
    """Also in the first and in the last one."""
    history = [user(str(at)) for at in range(4)]
    history[index] = user("http://a/")
    assert extract_last_url(history) == ("http://a/", [user(""), *history[index + 1 :]])


@pytest.mark.parametrize("text", ["nothing here", "ftp://a/", "http:// a", "https:/a", ""])
def test_without_a_url_the_history_stays(text: str) -> None:
    """None comes back with the whole history, in a list of its own."""
    history = [user(text), assistant("http://c/")]
    found, kept = extract_last_url(history)
    assert (found, kept) == (None, history)
    assert kept is not history
