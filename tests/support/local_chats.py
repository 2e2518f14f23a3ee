"""Ask a loaded backend without a stream, for tests that look at the request itself."""

from __future__ import annotations

import json
from typing import Any

from backends._local.executor import ModelExecutor
from kuwa_min import Modelfile

ROLES = ("user", "assistant")


def chat(*said: str) -> list[dict[str, str]]:
    """Return the messages of what user and assistant said in turn."""
    return [{"role": ROLES[n % 2], "content": text} for n, text in enumerate(said)]


def create(executor: ModelExecutor, *said: str, **commands: str) -> Any:
    """Return a request that was not submitted; the commands are a Modelfile's."""
    entries = [{"name": name, "args": text} for name, text in commands.items()]
    return executor.create_request(chat(*said), Modelfile.from_json(json.dumps(entries)))


def ask(executor: ModelExecutor, *said: str, **commands: str) -> tuple[str, Any]:
    """Return a whole answer, and the request, which has its counts."""
    request = create(executor, *said, **commands)
    executor.engine.submit(request)
    text = ""
    while not request.drained:
        text += request.next_text()
    return text + "".join(request.side_notes), request


def tokens(executor: ModelExecutor, *said: str) -> list[int]:
    """Return a chat as the model's own template and its tokenizer make it."""
    ids: list[int] = executor.default_encoder().encode(chat(*said)).ids
    return ids


def truncated(executor: ModelExecutor, said: list[str], ids: list[int]) -> list[str]:
    """Return what of a chat is in a prompt: it must be whole exchanges, and the last message."""
    starts = range(0, len(said), 2)
    return next(said[start:] for start in starts if tokens(executor, *said[start:]) == ids)


def stopped(request: Any, text: str) -> str:
    """Return what a request that was not submitted makes of a text of its model."""
    request.emit(text)
    request.finish()
    return str(request.next_text())
