"""How much a client of the server may send, and how long it may take."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Limits of a server and of each of its clients."""

    body_bytes: int = 8 << 20
    bodies_bytes: int = 64 << 20  # of all clients' bodies together, see body_budget
    head_seconds: float = 10
    body_seconds: float = 20
    idle_seconds: float = 8  # between an answer and the next request
    send_seconds: float = 10  # of an answer, or between two reads of a streamed one
    connections: int = 1024  # above which idle ones are dropped
    sockets: int = 2048  # of all connections, dropped ones that have not ended yet included
