"""Signs of life while nothing of a thought is shown."""

from __future__ import annotations

import time

import pytest

from kuwa_min.chat.thinking.signs import INTERVAL, SignsOfLife


def test_a_sign_says_how_many_tokens_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of how many, if there is a limit; one is due an interval after the last."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    signs = SignsOfLife()
    assert not signs.is_due
    now += INTERVAL
    assert signs.is_due
    sign = signs.sign(7)
    assert (sign.position, sign.total, sign.desc, sign.postfix) == (7, 0, "Thinking", "7 tokens")
    assert not signs.is_due
    sign = SignsOfLife(most=5).sign(7)
    assert (sign.position, sign.total, sign.postfix) == (5, 5, None)
