"""The estimate of a chat's tokens: rather too many than too few."""

from __future__ import annotations

import pytest

from backends._cloud.token_estimate import PER_FILE, PER_MESSAGE, chat_tokens, text_tokens
from backends._media.links import placeholder


@pytest.mark.parametrize(
    ("text", "least", "most"),  # what tokenizers of current models make of it, and twice that
    [
        ("The quick brown fox jumps over the lazy dog. " * 10, 100, 200),
        ("for (int i = 0; i < n; i++) { sum += a[i]; }\n" * 10, 145, 290),
        ("今天天氣很好，我們一起去公園散步吧。" * 10, 130, 270),
        ("Привет, как дела? " * 10, 60, 160),
        ("😀" * 10, 10, 25),
        ("", 0, 1),
    ],
)
def test_a_guess_is_neither_too_low_nor_wild(text: str, least: int, most: int) -> None:
    """In any script."""
    assert least <= text_tokens(text) <= most


def test_a_chat_has_more_than_its_texts() -> None:
    """Who speaks costs, and a picture does."""
    one = {"role": "user", "content": "hi"}
    assert chat_tokens([one, one]) == 2 * (text_tokens("hi") + PER_MESSAGE)
    assert (
        chat_tokens([{"role": "user", "content": placeholder(1) + placeholder(2)}]) >= 2 * PER_FILE
    )
