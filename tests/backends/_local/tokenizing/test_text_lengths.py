"""The lengths of texts are counted once."""

from __future__ import annotations

import pytest

from backends._local.tokenizing import text_lengths
from backends._local.tokenizing.text_lengths import TextLengths


def test_a_text_is_tokenized_once() -> None:
    """And its length remembered; lone surrogates are no obstacle."""
    asked: list[str] = []

    def tokenize(text: str) -> list[int]:
        asked.append(text)
        return list(text.encode())

    lengths = TextLengths(tokenize)
    texts = ["", "hi", "世界", "\ud800", "hi", "世界"]
    assert [lengths(text) for text in texts] == [0, 2, 6, 1, 2, 6]
    assert asked == ["", "hi", "世界", "?"]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And holds no texts of chats."""
    monkeypatch.setattr(text_lengths, "MAX_TEXTS", 3)
    lengths = TextLengths(lambda text: list(text.encode()))
    assert [lengths("a" * count) for count in range(9)] == list(range(9))
    assert len(lengths._lengths) <= 3
    assert not any(isinstance(part, str) for key in lengths._lengths for part in key)
