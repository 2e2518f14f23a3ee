"""Streaming detokenizers: whole characters, nothing lost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.models import tiny_models

pytest.importorskip("transformers", reason="the huggingface backend needs transformers")

from backends.huggingface.detokenizer import create_detokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the libraries' own
]
TEXT = "Hello 世界\n\n👋🏽 é\nend"


class Slow:
    """A tokenizer without a stream of its own, as those written in Python."""

    def __init__(self, inner: Any) -> None:
        self.decode = inner.decode


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Make a tokenizer of single bytes."""
    return tiny_models.make_tokenizer()


@pytest.mark.parametrize("kind", [lambda inner: inner, Slow])
def test_characters_come_whole(tokenizer: Any, kind: Any) -> None:
    """However many tokens one has; special tokens are not text."""
    decode = create_detokenizer(kind(tokenizer))
    pieces = [decode(token) for token in [tiny_models.END, *tokenizer(TEXT).input_ids]]
    assert [piece for piece in pieces if piece] == list(TEXT)


@pytest.mark.parametrize("kind", [lambda inner: inner, Slow])
def test_a_character_that_is_never_finished_is_not_shown(tokenizer: Any, kind: Any) -> None:
    """An answer may end in the middle of one."""
    decode = create_detokenizer(kind(tokenizer))
    tokens = tokenizer("a世").input_ids[:-1]
    assert "".join(map(decode, tokens)) == "a"


def test_answers_share_no_state(tokenizer: Any) -> None:
    """Half a character of one is not finished by another."""
    one, other = create_detokenizer(tokenizer), create_detokenizer(tokenizer)
    first, second, third = tokenizer("世").input_ids
    assert one(first) == other(first) == one(second) == other(second) == ""
    assert one(third) == other(third) == "世"
