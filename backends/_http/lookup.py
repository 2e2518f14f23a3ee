"""Look up host names so that the wait for an answer can be cancelled."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from typing import Any

from .cancellation import Cancelled, current_scope


def look_up(host: str, port: int, seconds: float | None) -> list[Any]:
    """Call getaddrinfo() on a thread of its own: the call itself cannot be interrupted.

    The thread's cancel scope ends the wait. Raises TimeoutError after `seconds`, and OSError.
    """
    scope = current_scope()
    with contextlib.suppress(socket.gaierror, UnicodeError):
        flags = socket.AI_NUMERICHOST
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    found: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.put(error)
        except UnicodeError:
            found.put(socket.gaierror(socket.EAI_NONAME, f"{host} is no name of a host"))

    scope.on_cancel(lambda: found.put(Cancelled("the chat was stopped")))
    threading.Thread(target=resolve, name="look-up", daemon=True).start()
    try:
        answer = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no name server says where {host} is") from None
    finally:
        scope.unwatch()
    if isinstance(answer, OSError):
        raise answer
    return answer
