"""How many connections a process may accept with the descriptors that the system grants it."""

from __future__ import annotations

import logging

from kuwa_min.httpd.limits import Limits

logger = logging.getLogger(__name__)

IDLE_CONNECTIONS = 1024  # besides one for each endpoint
RESERVE = 64  # descriptors for model files, imports, the log, the Kernel and helper processes
PER_CHAT = 3  # descriptors of a running chat besides its connection: a service's, a picture's, ...


def connection_limits(
    open_files: int | None, *, slots: int, endpoints: int, servers: int = 1
) -> Limits:
    """Return the limits of each of some servers that share the descriptors of the process.

    A chat must never wait for a descriptor, so connections leave room for all that it opens. If
    there are fewer than the options ask for, the log says so.

    open_files: how many the process may have open; None: there is no limit.
    """
    wanted = IDLE_CONNECTIONS + endpoints
    sockets = 2 * wanted
    if open_files is not None:
        kept = min(RESERVE, open_files // 4) + PER_CHAT * slots
        sockets = min(sockets, max(open_files - kept, open_files // 4) // servers)
    if sockets < endpoints:
        logger.warning(
            "at most %d open files (ulimit -n) allow %d connections at once, fewer than the %d "
            "chats of --concurrent_req_limit and --waiting; %d would do",
            open_files,
            sockets,
            endpoints,
            servers * (endpoints + endpoints // 4) + RESERVE + PER_CHAT * slots,
        )
    # Some may be open that were dropped and have not ended yet
    return Limits(connections=max(1, min(wanted, sockets - sockets // 8)), sockets=sockets)
