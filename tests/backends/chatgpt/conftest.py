"""A service for a test, and an environment without keys and proxies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from backends._cloud import errors
from tests.fakes.openai.server import Handler, Service, openai_server

from .asking import Serve


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have no key and no proxy in the environment, and a short back-off; close all clients."""
    from backends.chatgpt.client import Client

    clients: list[Client] = []
    create = Client.__init__

    def remember(client: Client, base_url: str) -> None:
        create(client, base_url)
        clients.append(client)

    monkeypatch.setattr(Client, "__init__", remember)
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(errors, "BACKOFF_FIRST", 0.001)
    yield
    for client in clients:
        client.close()


@pytest.fixture
def serve(surroundings: None) -> Iterator[Serve]:
    """Give what starts a service for a test; end them all."""
    with ExitStack() as stack:

        def begin(talk: Callable[[Handler], None], **more: Any) -> Service:
            return stack.enter_context(openai_server(talk, **more))

        yield begin
