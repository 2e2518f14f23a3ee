"""What was fetched is kept for some minutes, and within a bound."""

from __future__ import annotations

import pytest

from backends._media import fetch_cache
from backends._media.fetch_cache import OVERHEAD, FetchCache


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give a clock that stands still until its only item is set."""
    now = [1000.0]
    monkeypatch.setattr(fetch_cache.time, "monotonic", lambda: now[0])
    return now


def test_a_value_is_kept_while_it_is_asked_for(clock: list[float]) -> None:
    """Each time it is asked for, it stays for as long again."""
    cache: FetchCache[str] = FetchCache(seconds=60)
    cache.put("a", "1", 1)
    cache.put("b", "2", 1)
    for _ in range(3):
        clock[0] += 50
        assert cache.get("a") == "1"
    assert cache.get("b") is None
    clock[0] += 61
    assert cache.get("a") is None


def test_what_was_not_asked_for_for_longest_goes_first() -> None:
    """When all together are larger than they may be; an entry that is too large alone, too."""
    cache: FetchCache[str] = FetchCache(most_bytes=2 * OVERHEAD + 100)
    cache.put("a", "1", 20)
    cache.put("b", "2", 20)
    assert cache.get("a") == "1"
    cache.put("c", "3", 20)
    assert [cache.get(name) for name in "abc"] == ["1", None, "3"]
    cache.put("d", "4", 10_000)
    assert [cache.get(name) for name in "acd"] == [None, None, None]
    cache.put("e", "5", 20)
    assert cache.get("e") == "5"


def test_a_new_value_takes_the_place_of_the_old_one() -> None:
    """And its size counts once."""
    cache: FetchCache[str] = FetchCache(most_bytes=2 * OVERHEAD + 100)
    for number in range(10):
        cache.put("a", str(number), 40)
    cache.put("b", "x", 40)
    assert (cache.get("a"), cache.get("b")) == ("9", "x")
