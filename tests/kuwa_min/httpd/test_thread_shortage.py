"""Clients without a thread: what the log says of them, and when the process ends."""

from __future__ import annotations

import logging

import pytest

from kuwa_min.httpd import thread_shortage
from kuwa_min.httpd.thread_shortage import HOPELESS_SECONDS, TELL_INTERVAL, ThreadShortage


class Clock:
    """Stands in for the module time."""

    now = 0.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the time of the module."""
    clock = Clock()
    monkeypatch.setattr(thread_shortage, "time", clock)
    return clock


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the reasons for which the process was ended."""
    reasons: list[str] = []
    monkeypatch.setattr(thread_shortage, "end_process", reasons.append)
    return reasons


def test_refusals_are_logged_once_a_minute(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Each line says how many clients do have a thread."""
    shortage = ThreadShortage()
    with caplog.at_level(logging.WARNING):
        for clock.now in (0.0, 1.0, TELL_INTERVAL, TELL_INTERVAL + 1):
            shortage.refused(others=7)
    assert ["(7 others have one)" in message for message in caplog.messages] == [True, True]


def test_without_any_thread_the_process_ends(clock: Clock, ends: list[str]) -> None:
    """It does after a while in which no client got one and none held one."""
    shortage = ThreadShortage()
    shortage.refused(others=0)
    clock.now = HOPELESS_SECONDS
    shortage.refused(others=0)
    assert not ends
    clock.now += 1
    shortage.refused(others=0)
    assert ends


@pytest.mark.parametrize("hope", ["thread", "others"])
def test_hope_begins_the_time_anew(hope: str, clock: Clock, ends: list[str]) -> None:
    """A client that got a thread, or others whose end may free one."""
    shortage = ThreadShortage()
    shortage.refused(others=0)
    clock.now = HOPELESS_SECONDS + 1
    if hope == "thread":
        shortage.ended()
    else:
        shortage.refused(others=1)
    shortage.refused(others=0)
    clock.now += HOPELESS_SECONDS
    shortage.refused(others=0)
    assert not ends
