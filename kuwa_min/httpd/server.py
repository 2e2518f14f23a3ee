"""A hardened http.server: bounded connections, checked hosts and origins, TLS, clean shutdown.

Python's http.server is not meant for production. What it lacks is replaced here and in connection:
absolute deadlines instead of a timeout per read, a cap on connections that drops the oldest idle
one, bodies read and bounded before a route is called, an answer to everything, and no reverse DNS
lookup at the start. Knows nothing of chats or Kernels: a route is a function of a request.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Collection
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from kuwa_min.errors import ClientDisconnected, StartError, describe
from kuwa_min.process.supervision import SupervisedThread, report

from .body_budget import BodyBudget
from .connection import LINGER_BYTES, LINGER_SECONDS, Connection
from .connection_table import ConnectionTable, State
from .flush_thread import FlushThread
from .http1 import RequestHead
from .limits import Limits
from .listener import Listener
from .messages import TEXT, RenderError, Response, Routes, json_message, render_error
from .origin_policy import OriginPolicy
from .thread_shortage import ThreadShortage

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger(__name__)

SHUTDOWN_POLL = 0.1  # seconds between two looks of the accepting thread at a shutdown
ACCEPT_BACKOFF = 0.05  # seconds without accept() while descriptors or threads are short
THREAD_POLL = 0.005  # seconds between two tries to start a thread
SILENT_SECONDS = 0.5  # until a connection without a first byte leaves the process that accepts
STALE_SECONDS = 60.0  # without a heartbeat of ours until that process calls us wedged
FULL = Response(503, b"Too many connections. Please try again.", TEXT)
STALE = json_message(503, f"This executor has not moved for {STALE_SECONDS:g} seconds.")


class Server(ThreadingHTTPServer):
    """A listening socket and the threads of its connections; a `with` block serves.

    One thread accepts, each connection has a thread, and a flush thread serves the streamed bodies.
    Raises StartError if the address cannot be listened on.

    address: IP address or host name, and port; 0 is any free one, see `port`.
    hosts: names that may stand in Host; localhost and every IP address may, too.
    origins: hosts of further web sites whose pages may send requests.
    any_host_paths: paths whose GET is answered under any Host, unless a browser sends it.
    is_shared: tells that a page of another web site may send this request.
    needs_token: tells that a request is answered only with a token, under any Host therefore.
    render_error: makes the responses to refused requests.
    address_options: of the command line, by which another address is chosen.
    """

    request_queue_size = 1024
    daemon_threads = True
    allow_reuse_address = os.name == "posix"
    block_on_close = False

    def __init__(
        self,
        address: tuple[str, int],
        routes: Routes,
        *,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        any_host_paths: Collection[str] = (),
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        is_shared: Callable[[RequestHead], bool] = lambda head: False,
        needs_token: Callable[[RequestHead], bool] = lambda head: False,
        render_error: RenderError = render_error,
        address_options: str = "--port or --bind",
    ) -> None:
        self.render_error = render_error
        self.routes, self.limits, self.tls = routes, limits or Limits(), tls
        self.body_budget = BodyBudget(self.limits.bodies_bytes)
        self.check_origin = OriginPolicy(
            hosts, origins, any_host_paths, is_shared, needs_token
        ).check
        self.would_block: tuple[type[OSError], ...] = (BlockingIOError, InterruptedError)
        if tls is not None:
            import ssl

            self.would_block += (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self.closing = False
        self.connections = ConnectionTable()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(address, Connection)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StartError(
                f"cannot listen on {address[0]} port {address[1]}: {reason}; "
                f"choose another {address_options}"
            ) from None
        self.listener = Listener(self.socket)
        self.flush_thread = FlushThread()
        self._shortage = ThreadShortage()

    def __enter__(self) -> Server:
        """Start the threads."""
        self.flush_thread.__enter__()
        self._thread = SupervisedThread("httpd", self._accept, essential=True)
        self._thread.start()
        return self

    def _accept(self) -> None:
        """Accept connections until shutdown(); a failure after that is none."""
        try:
            if not self.closing:
                self.serve_forever()
        except Exception:
            if not self.closing:
                raise

    def __exit__(self, *_: object) -> None:
        """Stop listening and close all connections; answers under way are cut."""
        self.closing = True
        self._thread.end_pauses()
        self._thread.join()
        self.listener.close()
        self.server_close()
        self.connections.shut_down()
        self.flush_thread.__exit__()

    @property
    def port(self) -> int:
        """Return the port that is listened on."""
        return int(self.socket.getsockname()[1])

    def server_bind(self) -> None:
        """Bind without the reverse DNS lookup of http.server, which can block for seconds."""
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        if self.server_address[0] == "::":  # both families, whatever the default of the system is
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def tls_handshake(self, sock: socket.socket) -> socket.socket:
        """Return the TLS socket of a new connection, or the socket itself without TLS.

        Called on the connection's thread: a client that is slow to shake hands delays no other.
        """
        if self.tls is None:
            return sock
        try:
            wrapped = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # it left, or sent something before the handshake
            raise ClientDisconnected from None
        self.connections.replace(sock, wrapped, State.IDLE)
        wrapped.settimeout(self.limits.head_seconds)
        try:
            wrapped.do_handshake()
        except (OSError, ValueError):
            self.shutdown_request(wrapped)
            raise ClientDisconnected from None
        return wrapped

    def delegate(self, path: str, response: Response) -> None:
        """Let a process of its own accept connections and answer GET requests of one path.

        It does so however busy this process is; until it runs, we accept. Does nothing with TLS,
        and where no such process can be started.
        """
        from . import acceptor
        from .acceptor_child import Settings

        if self.tls is not None or not acceptor.is_possible():
            return
        limits = self.limits
        settings = Settings(
            path=path,
            answers=(response.encode(keep_alive=False), response.encode(keep_alive=True)),
            stale=STALE.encode(keep_alive=False),
            full=FULL.encode(keep_alive=False),
            stale_seconds=STALE_SECONDS,
            silent_seconds=SILENT_SECONDS,
            idle_seconds=limits.idle_seconds,
            connections=limits.connections,
            parent=os.getpid(),
        )
        self.listener.delegate(settings)

    def serve_forever(self, poll_interval: float = SHUTDOWN_POLL) -> None:
        """Accept connections until `closing`, and start their threads."""
        while not self.closing:
            if self.listener.wait(poll_interval):
                self._handle_request_noblock()  # type: ignore[attr-defined]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; at the limit of open ones, wait for one that was dropped to end."""
        if self.limits.sockets <= len(self.connections):
            self._drop_oldest()
            if not self._wait_for_room() and self.connections.ending:
                raise BlockingIOError  # the next try is at once, and the client waits
        try:
            return self.listener.accept()
        except BlockingIOError:
            raise
        except OSError:  # out of descriptors, though the limit should prevent that
            self._drop_oldest()
            threading.Event().wait(ACCEPT_BACKOFF)
            raise

    def _drop_oldest(self) -> None:
        """Make room: where no connection is idle, an unfinished request has to end."""
        drop = self.connections.drop_oldest
        if not drop(State.IDLE, State.LINGERING):
            drop(State.RECEIVING)

    def _wait_for_room(self) -> bool:
        return self.connections.wait_for_fewer(self.limits.sockets, ACCEPT_BACKOFF)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own; at the limit, drop the oldest idle one.

        The new one may be the Kernel's, which forgets an executor that does not answer. So it is
        refused with a 503 only if as many as there may be are being answered, or for lack of
        threads.
        """
        if self.connections.kept >= self.limits.connections:
            self.connections.drop_oldest(State.IDLE, State.LINGERING)
        is_full = len(self.connections) >= self.limits.sockets
        self.connections.add(request)
        if is_full or not self._start_thread(request, client_address):
            self._reject(request)

    def _start_thread(self, request: socket.socket, client_address: Any) -> bool:
        """Start the thread of a connection, in place of that of an idle one if need be."""
        deadline: float | None = None
        while True:
            try:
                # not Thread.start(), which waits for the thread, without memory for ever
                start_new_thread(self._serve_connection, (request, client_address))
                self._shortage.ended()
                return True
            except (RuntimeError, MemoryError):
                if deadline is None and self._free_thread(request):
                    deadline = time.monotonic() + ACCEPT_BACKOFF
                elif deadline is None or time.monotonic() > deadline:
                    self._shortage.refused(others=self._others_with_threads())
                    return False
                threading.Event().wait(THREAD_POLL)

    def _free_thread(self, request: socket.socket) -> bool:
        """End another connection for its thread; return whether there was one.

        Without another one, the process that accepts ends: it is a help, clients are the purpose.
        """
        drop = self.connections.drop_oldest
        if drop(State.IDLE, but=request) or drop(State.RECEIVING):
            return True
        return not self._others_with_threads() and self.listener.give_up_process()

    def _others_with_threads(self) -> int:
        """Return how many connections hold a thread, beside a new one."""
        return len(self.connections) - self.connections.count(State.LINGERING) - 1

    def _serve_connection(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.process_request_thread(request, client_address)
        except BaseException as error:  # noqa: BLE001 - no other place would tell of it
            report("of a connection", error)

    def _reject(self, request: socket.socket) -> None:
        """Answer 503 on the accepting thread; a new socket takes this without blocking."""
        with contextlib.suppress(OSError):
            request.setblocking(False)
            request.send(FULL.encode(keep_alive=False))
        self.linger(request, LINGER_BYTES, LINGER_SECONDS)

    def linger(self, sock: socket.socket, size: int, seconds: float) -> None:
        """Close a connection, whose socket is taken over, once its client has ceased to send.

        size, seconds: how much of what it sends is dropped at most.
        """
        taken = socket.socket(fileno=sock.detach())
        self.connections.replace(sock, taken, State.LINGERING)
        self.flush_thread.linger(taken, size, seconds, self.shutdown_request)

    def shutdown_request(self, request: Any) -> None:
        """Close and forget a connection."""
        super().shutdown_request(request)
        self.connections.remove(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an unexpected error of a connection in one line, without the traceback."""
        error = sys.exc_info()[1]
        if error is not None:
            logger.error("a connection failed: %s", describe(error))
