"""Tokens of texts are remembered, within a bound."""

from __future__ import annotations

import pytest

from backends._local.tokenizing import token_cache
from backends._local.tokenizing.token_cache import TokenCache


def test_what_was_put_comes_back() -> None:
    """A list of one's own; a first piece and another one of the same text are two things."""
    cache = TokenCache()
    cache.put(("a", True), [1, 2])
    found = cache.get(("a", True))
    assert found == [1, 2]
    found.append(3)
    assert cache.get(("a", True)) == [1, 2]
    assert cache.get(("a", False)) is None


def test_what_was_not_used_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts and tokens count."""
    monkeypatch.setattr(token_cache, "_size", lambda key, tokens: len(key[0]) + len(tokens))
    cache = TokenCache(max_bytes=10)
    for text in "abcde":
        cache.put((text, True), [1])
    cache.get(("a", True))
    cache.put(("f", True), [1])
    assert cache.get(("b", True)) is None
    assert all(cache.get((text, True)) for text in "acdef")
    cache.put(("g" * 20, True), [])  # larger than all
    assert not any(cache.get((text, True)) for text in "acdef")
