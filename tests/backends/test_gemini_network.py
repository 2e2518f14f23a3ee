"""What a network does instead of bringing an answer, done by real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("google.generativeai", reason="geminipro needs google-generativeai")

from fakes.gemini_is_silent import after_the_first_word, before_the_head
from fakes.gemini_server import gemini_server

from backends import _gemini_network, _gemini_session
from backends._gemini_client import Client, Content, text_part, write
from backends._gemini_session import Broken
from backends._refusal import Refusal
from kuwa_min import sentences

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


def explain(endpoint: str) -> Refusal:
    """Return what becomes of a request to an address."""
    client = Client(endpoint, 1)
    request = write("models/m", [Content("user", [text_part("hi")])], system="", options={})
    with pytest.raises(Broken) as broken:
        list(client.ask(request, "key"))
    client.close()
    return _gemini_network.explain(broken.value)


def test_a_port_that_takes_nobody_is_given_up(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: another try would take as long."""
    monkeypatch.setattr(_gemini_session, "CONNECT", SHORT)
    found = explain(full)
    assert (type(found), found.sentence) == (Refusal, sentences.UNREACHABLE)
    assert "Timeout" in str(found)


@pytest.mark.parametrize("talk", [before_the_head, after_the_first_word])
def test_a_service_that_falls_silent_is_given_up(
    monkeypatch: pytest.MonkeyPatch, talk: object
) -> None:
    """Before the first word, or after it."""
    monkeypatch.setattr(_gemini_session, "SILENCE", SHORT)
    with gemini_server(talk) as service:  # type: ignore[arg-type]
        found = explain(service.url)
    assert (type(found), found.sentence) == (Refusal, sentences.TOO_SLOW)


def test_the_cause_quotes_nothing_of_the_other_side() -> None:
    """Only the system's own words."""
    for cause, text in (
        (ValueError("a secret"), "ValueError"),
        (ConnectionResetError(104, "Connection reset by peer"), "ConnectionResetError: Conn"),
    ):
        broken = Broken()
        broken.__cause__ = cause
        assert str(_gemini_network.explain(broken)).startswith(text)
        assert "secret" not in str(_gemini_network.explain(broken))
