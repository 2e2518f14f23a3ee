"""Ask a service of OpenAI's kind through the backend and the real SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backends.chatgpt import ChatgptExecutor
from tests.fakes.openai.server import Handler, Service
from tests.support.cloud_chats import start

Serve = Callable[..., Service]


def connect(service: Service, *options: object) -> Any:
    """Return a backend that asks this service."""
    return start(ChatgptExecutor, "--base_url", service.url, *options)


def fine(talk: Handler) -> None:
    """Answer as a service should."""
    talk.tell("Hello", ", 世界", "!")
