"""Turns of a conversation, and its file."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.kernel.terminal.conversation import Conversation


def roles(conversation: Conversation) -> str:
    """Return the messages' contents."""
    return " ".join(one["content"] for one in conversation.messages)


def test_a_turn_is_taken_back_and_asked_again() -> None:
    """Its answer is replaced; earlier turns stay."""
    one = Conversation()
    assert one.again() == ""
    for question, answer in (("a", "b"), ("c", "d")):
        one.ask(question)
        one.add_answer(answer)
    assert one.again() == "c"
    assert [message["content"] for message in one.ask("c")] == ["a", "b", "c"]
    one.add_answer("e")
    assert roles(one) == "a b c e"


def test_a_question_without_an_answer_is_no_part_of_what_follows() -> None:
    """But it can be asked again, and that takes no other turn back."""
    one = Conversation()
    one.ask("a")
    one.add_answer("b")
    one.ask("lost")
    assert one.again() == "lost"
    assert roles(one) == "a b"


def test_a_saved_conversation_is_private_and_overwrites_nothing(tmp_path: Path) -> None:
    """Markdown, JSON; a second time, and where nothing can be written."""
    one = Conversation("be brief")
    one.ask("a")
    one.add_answer("你\x1b[2J")
    for name in ("chat.md", "chat.json"):
        one.save(str(tmp_path / name))
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    text = (tmp_path / "chat.md").read_text("utf-8")
    assert text == "## System\n\nbe brief\n\n## You\n\na\n\n## Answer\n\n你\\x1b[2J\n"
    saved = json.loads((tmp_path / "chat.json").read_bytes())["messages"]
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    for path in (tmp_path / "chat.md", tmp_path, tmp_path / "no" / "where", "a\0b"):
        with pytest.raises(UsageError):
            one.save(str(path))
