"""The transport against real sockets that do not answer, and how that is classified."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("google.generativeai", reason="geminipro needs google-generativeai")

from backends._cloud.errors import ServiceError, from_connection_failure
from backends._http.connection import Timeouts
from backends._http.transport_errors import ConnectionFailed
from backends.geminipro import transport
from backends.geminipro.client import Client, Content, create_request, text_part
from backends.geminipro.errors import FAILURES
from kuwa_min.chat import catalog
from tests.fakes.gemini.is_silent import after_the_first_word, before_the_head
from tests.fakes.gemini.server import gemini_server

SHORT = 0.1  # seconds of patience


@pytest.fixture
def full() -> Iterator[str]:
    """Give the address of a port whose line of waiting connections is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for one in waiting:
            one.close()


def explain(endpoint: str) -> ServiceError:
    """Return what becomes of a request to an address."""
    client = Client(endpoint)
    request = create_request(
        "models/m", [Content("user", [text_part("hi")])], system="", options={}
    )
    with pytest.raises(ConnectionFailed) as failed:
        list(client.stream(request, "key", lambda _: None))
    client.close()
    return from_connection_failure(failed.value, FAILURES)


def test_a_port_that_accepts_no_connection_is_given_up(
    full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: another try would take as long."""
    monkeypatch.setattr(transport, "TIMEOUTS", Timeouts(connect=SHORT, read=20))
    found = explain(full)
    assert (type(found), found.sentence) == (ServiceError, catalog.UNREACHABLE)
    assert "Timeout" in str(found)


@pytest.mark.parametrize("talk", [before_the_head, after_the_first_word])
def test_a_service_that_falls_silent_is_given_up(
    monkeypatch: pytest.MonkeyPatch, talk: object
) -> None:
    """Before the first word, or after it."""
    monkeypatch.setattr(transport, "TIMEOUTS", Timeouts(connect=20, read=SHORT))
    with gemini_server(talk) as service:  # type: ignore[arg-type]
        found = explain(service.url)
    assert (type(found), found.sentence) == (ServiceError, catalog.TOO_SLOW)
