"""How many connections fit into the descriptors of a process."""

from __future__ import annotations

import logging

import pytest

from kuwa_min.serving.connection_limits import connection_limits


@pytest.mark.parametrize(
    ("open_files", "slots", "endpoints", "servers", "connections", "sockets"),
    [
        (None, 1, 2, 1, 1026, 2052),
        (65536, 1, 2, 1, 1026, 2052),
        (65536, 500, 1000, 2, 2024, 4048),
        (1024, 1, 2, 1, 838, 957),
        (256, 1, 2, 1, 166, 189),
        (256, 1, 2, 2, 83, 94),
        (64, 1, 2, 1, 40, 45),
        (8, 1, 2, 1, 3, 3),
    ],
)
def test_connections_leave_room_for_everything_else(
    open_files: int | None,
    slots: int,
    endpoints: int,
    servers: int,
    connections: int,
    sockets: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Many are allowed, and never more than there are descriptors for; nothing is said."""
    limits = connection_limits(open_files, slots=slots, endpoints=endpoints, servers=servers)
    assert (limits.connections, limits.sockets) == (connections, sockets)
    assert not caplog.records


@pytest.mark.parametrize(("open_files", "slots", "endpoints"), [(256, 80, 160), (64, 100, 101)])
def test_fewer_connections_than_chats_are_named_with_what_would_do(
    open_files: int, slots: int, endpoints: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Say it once; what the line proposes is enough."""
    with caplog.at_level(logging.WARNING):
        limits = connection_limits(open_files, slots=slots, endpoints=endpoints)
    assert 1 <= limits.connections < endpoints
    (line,) = (record.getMessage() for record in caplog.records)
    assert f"at most {open_files} open files" in line
    enough = int(line.rpartition("; ")[2].split()[0])
    assert connection_limits(enough, slots=slots, endpoints=endpoints).connections >= endpoints
