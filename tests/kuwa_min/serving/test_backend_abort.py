"""A backend's abort(): where it runs, and what its failure does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from kuwa_min.serving import backend_abort
from kuwa_min.serving.backend_abort import BackendAbort
from kuwa_min.serving.event_loop import EventLoop

LONG = 60.0  # seconds


class Backend:
    """Records the thread of abort(), which unblocks block()."""

    def __init__(self) -> None:
        self.thread = ""
        self.aborted = threading.Event()

    async def abort(self) -> None:
        """End `block`."""
        await asyncio.sleep(0)
        self.thread = threading.current_thread().name
        self.aborted.set()

    async def block(self) -> None:
        """Hold the event loop until abort() was called."""
        self.aborted.wait(LONG)


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    """Give an event loop."""
    one = EventLoop()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def long_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait long for abort(): the machine may be busy."""
    monkeypatch.setattr(backend_abort, "TIMEOUT", LONG)


def test_abort_runs_on_the_event_loop(monkeypatch: pytest.MonkeyPatch, loop: EventLoop) -> None:
    """Where chats run, too."""
    monkeypatch.setattr(backend_abort, "START_TIMEOUT", LONG)
    backend = Backend()
    BackendAbort(backend.abort, loop).run()
    assert backend.thread == "event-loop"


def test_abort_runs_beside_a_loop_that_blocks(loop: EventLoop) -> None:
    """So that it can end what blocks there."""
    backend = Backend()
    blocked = loop.call(backend.block, LONG)
    BackendAbort(backend.abort, loop).run()
    assert backend.thread == "abort"
    assert blocked is not None
    assert blocked.wait(LONG)


def test_abort_needs_no_loop() -> None:
    """A backend without asyncio has none."""
    backend = Backend()
    BackendAbort(backend.abort, None).run()
    assert backend.thread == "abort"


def test_a_failure_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Without its message, which may quote a chat."""

    async def abort() -> None:
        raise ValueError("my secret")

    BackendAbort(abort, None).run()
    assert "abort() failed: test_backend_abort.py" in caplog.text
    assert "my secret" not in caplog.text
