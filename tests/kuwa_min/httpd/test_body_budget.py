"""The bytes of all bodies: what is free, who is displaced, what is given back."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from kuwa_min.errors import HTTPError
from kuwa_min.httpd.body_budget import FREE_BYTES, Body, BodyBudget
from kuwa_min.httpd.limits import Limits
from kuwa_min.httpd.messages import TEXT, Response
from kuwa_min.httpd.server import Server
from tests.support.programs import until

UNIT = 1000
LIMIT = 4 * UNIT


def receive(body: Body, counted: int) -> None:
    """Add as many bytes as count against the budget, and those that do not."""
    body.append(b"x" * (FREE_BYTES + counted - len(body.data)))


def is_displaced(body: Body) -> bool:
    """Tell whether a body gets no further."""
    try:
        body.append(b"x")
    except HTTPError as error:
        assert (error.status, error.headers) == (503, {"Retry-After": "5"})
        assert body.data == b""
        return True
    return False


def test_ordinary_bodies_never_count() -> None:
    """Hold a hundred of them while one large body takes the whole budget."""
    budget = BodyBudget(LIMIT)
    with Body(budget) as large:
        receive(large, LIMIT)
        for body in [Body(budget) for _ in range(100)]:
            receive(body, 0)
            body.complete()
        assert (budget.used, len(budget.large)) == (LIMIT, 1)
    assert (budget.used, len(budget.large)) == (0, 0)


def test_bytes_count_when_they_come_and_until_they_are_given_back() -> None:
    """A byte beyond the free ones is one; a displaced body counts nothing."""
    budget = BodyBudget(LIMIT)
    with ExitStack() as stack:
        first, second = (stack.enter_context(Body(budget)) for _ in range(2))
        receive(first, 1)
        receive(second, LIMIT - 1)
        assert budget.used == LIMIT
        assert not is_displaced(second)
        assert budget.used == LIMIT
        assert is_displaced(first)
    assert budget.used == 0


def test_the_oldest_unfinished_body_is_displaced() -> None:
    """Neither those that are complete nor the newest; several if one is not enough."""
    budget = BodyBudget(LIMIT)
    bodies = [Body(budget) for _ in range(5)]
    for body in bodies[:4]:
        receive(body, UNIT)
    bodies[0].complete()
    receive(bodies[4], UNIT + 1)
    assert [one._is_displaced for one in bodies] == [False, True, True, False, False]
    with pytest.raises(HTTPError):
        bodies[1].complete()
    assert bodies[0].data == b"x" * (FREE_BYTES + UNIT)


def test_a_body_that_finds_only_complete_ones_is_refused_itself() -> None:
    """What is complete will be answered."""
    budget = BodyBudget(LIMIT)
    with Body(budget) as complete:
        receive(complete, LIMIT)
        complete.complete()
        late = Body(budget)
        with pytest.raises(HTTPError):
            receive(late, 1)
        assert budget.used == LIMIT
    assert budget.used == 0


def post(size: int, *fields: str) -> bytes:
    """Return the head of a request with a body of this size."""
    lines = ["POST / HTTP/1.1", "Host: localhost", f"Content-Length: {size}", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def read_all(sock: socket.socket) -> bytes:
    """Read up to the end of the connection."""
    data = b""
    while more := sock.recv(1 << 16):
        data += more
    return data


def test_clients_that_do_not_finish_cannot_keep_others_from_being_read() -> None:
    """Leave ten bodies unfinished; large and ordinary ones are answered, the oldest is told why."""
    limits = Limits(body_bytes=3 * FREE_BYTES, bodies_bytes=4 * FREE_BYTES)
    size = limits.body_bytes
    routes = {"/": {"POST": lambda request: Response(200, b"%d" % len(request.body), TEXT)}}
    with Server(("127.0.0.1", 0), routes, limits=limits) as server, ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60))

        drips = [connect() for _ in range(10)]
        for number, drip in enumerate(drips, 1):
            drip.sendall(post(size, "Accept-Language: zh-TW") + b"x" * (size - 1))
            counted = min(number * 2 * FREE_BYTES, 4 * FREE_BYTES)
            until(lambda least=counted - 2: server.body_budget.used >= least)
            assert server.body_budget.used <= limits.bodies_bytes
        for length in (size, FREE_BYTES):
            client = connect()
            client.sendall(post(length, "Connection: close") + b"x" * length)
            assert read_all(client).endswith(b"\r\n\r\n%d" % length)
        drips[0].sendall(b"x")
        answer = read_all(drips[0]).decode()
        assert answer.startswith("HTTP/1.1 503 ")
        assert "目前同時有太多大型請求，請稍候再試。" in answer
