"""Calls of functions in what models write, cut at every character."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kuwa_min.serving.openai_api.tool_calls import ToolCallSplitter

NAMES = frozenset(["look", "add"])
LOOK = '{"name": "look", "arguments": {"at": "é<"}}'
ADD = '{"name": "add", "arguments": {}}'
WRITTEN = '{"at": "é<"}'


def split(text: str, cuts: list[int]) -> tuple[str, list[tuple[str, str]], int]:
    """Return text, calls and their number of an answer that comes in pieces."""
    one = ToolCallSplitter(NAMES)
    parts: list[Any] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        parts += one.feed(text[start:end])
    parts += one.finish()
    calls = [part for part in parts if not isinstance(part, str)]
    assert [call["index"] for call in calls] == [*range(len(calls))]
    assert len({call["id"] for call in calls}) == len(calls)
    found = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    return "".join(part for part in parts if isinstance(part, str)), found, one.count


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("Hello", "Hello", []),
        ("", "", []),
        (f"<tool_call>\n{LOOK}\n</tool_call>", "", [("look", WRITTEN)]),
        (
            f"Let me.\n<tool_call>{LOOK}</tool_call>\n<tool_call>{ADD}</tool_call>",
            "Let me.\n",
            [("look", WRITTEN), ("add", "{}")],
        ),
        (f"<tool_call>{ADD}", "", [("add", "{}")]),
        (f"<tool_call>{ADD}</tool_call>Done.", "Done.", [("add", "{}")]),
        ('{"name": "add", "parameters": {"a": 1}}', "", [("add", '{"a": 1}')]),
        (f"[{LOOK}, {ADD}]", "", [("look", WRITTEN), ("add", "{}")]),
        ('{"name": "add"}', "", [("add", "{}")]),
        ('{"name": "add", "arguments": "{\\"a\\": 1}"}', "", [("add", '{"a": 1}')]),
        ('{"name": "sing", "arguments": {}}', '{"name": "sing", "arguments": {}}', []),
        (f"[{ADD}, 5]", f"[{ADD}, 5]", []),
        ("{half", "{half", []),
        ("<tool_call>no</tool_call>", "<tool_call>no</tool_call>", []),
        ("<tool_call>no", "<tool_call>no", []),
        (f"It is {ADD}", f"It is {ADD}", []),
        ("a < b <tool", "a < b <tool", []),
        ('{"name": ["add"]}', '{"name": ["add"]}', []),
        ('<tool_call>{"name": {}}</tool_call>', '<tool_call>{"name": {}}</tool_call>', []),
        ('{"name": "add", "arguments": NaN}', '{"name": "add", "arguments": NaN}', []),
    ],
)
def test_calls_are_told_from_text(text: str, said: str, calls: list[tuple[str, str]]) -> None:
    """Wherever a piece ends; what is no call of a function that was offered is text."""
    wanted = (said, calls, len(calls))
    assert split(text, []) == wanted
    assert split(text, [*range(1, len(text))]) == wanted
    for cut in range(1, len(text)):
        assert split(text, [cut]) == wanted


def test_text_is_not_held_longer_than_it_may_be_a_call() -> None:
    """But for the beginning of a tag."""
    one = ToolCallSplitter(NAMES)
    assert one.feed(" Hello <") == [" Hello "]
    assert one.feed("b> <tool_call>") == ["<b> "]
    assert one.feed(json.dumps({"name": "add"})) == []


@pytest.mark.parametrize("start", ["<tool_call>", "[", "{"])
def test_a_long_call_is_not_read_again_at_each_piece(
    start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So its time is linear, and its end is found wherever it is cut."""
    one, step, read = ToolCallSplitter(NAMES), ToolCallSplitter._step, 0

    def count(splitter: ToolCallSplitter, parts: list[Any]) -> bool:
        nonlocal read
        read += len(splitter._held)
        return step(splitter, parts)

    monkeypatch.setattr(ToolCallSplitter, "_step", count)
    for piece in [start, *["abcdefgh"] * 1000]:
        assert one.feed(piece) == []
    assert read < 100
    assert one.finish() == [start + "abcdefgh" * 1000]
