"""Fetch the pictures of a chat; stopping the chat ends that."""

from __future__ import annotations

from collections.abc import Callable

from backends._http.cancellation import CancelScope
from backends._media.attachments import AttachmentReader, ResolvedChat
from kuwa_min.chat.modelfile import Message


def fetch(
    reader: AttachmentReader, history: list[Message], on_stop: Callable[[Callable[[], None]], None]
) -> ResolvedChat:
    """Return a chat with its pictures; blocks the request's thread while they are fetched.

    on_stop: the executor's, by which stopping the chat cancels fetching.
    """
    scope = CancelScope()
    on_stop(scope.cancel)
    with scope:
        return reader.read(history)
