"""The life of an executor's process: listen, load, register, answer until a signal, drain.

Knows no LLMExecutor: a Backend says what is to be served.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from . import address, event_loop, log, process, protocol, stream
from .chunks import Piece
from .errors import KuwaError, StartError, UsageError, missing_module, traceback_line
from .exchange import Limits, Routes
from .httpd import Server
from .metrics import Metrics
from .server import MONITORING, ExecutorRoutes
from .shutdown import PATH as SHUTDOWN
from .shutdown import Shutdown
from .slots import Slots

if TYPE_CHECKING:
    import ssl

    from .registration import Registration
    from .report import Report

logger = logging.getLogger(__name__)

ABORT_START_SECONDS = 0.05  # for which the event loop may block before abort() runs elsewhere
ABORT_SECONDS = 5.0  # for which the next chat waits for a backend's abort()
SECRET_OPTIONS = ("_key", "_token", "_password", "_secret")  # whose values the log never holds
WARM_UP_AFTER = 0.2  # seconds; whoever waits for /health comes first
IDLE_CONNECTIONS = 1024  # besides one for each endpoint


class Backend(NamedTuple):
    """What is served: how it loads, answers and stops."""

    name: str
    version: str
    setup: Callable[[], None]
    compute: Callable[[protocol.Chat], AsyncGenerator[Piece, None]]
    abort: Callable[[], Coroutine[Any, Any, None]] | None
    uses_asyncio: bool
    report: Report


class Service:
    """One process that serves one backend with these options."""

    def __init__(self, backend: Backend, args: argparse.Namespace) -> None:
        self._backend, self._args = backend, args
        count, waiting = args.concurrent_req_limit, args.waiting
        self._metrics = Metrics(
            args.access_code[0], backend=backend.name, version=backend.version, slots=count
        )
        backend.report.on_tokens = self._metrics.count_tokens
        self._started = time.monotonic()
        abort = self._time_abort if backend.abort is not None else None
        self._slots = Slots(count, self._metrics, abort, waiting=waiting)
        self._paths = [
            protocol.slot_path(args.executor_path, index) for index in range(count + waiting)
        ]

    def run(self) -> None:
        """Serve until a signal says stop; raises KuwaError, or process.Stopped while loading."""
        for name, value in vars(self._args).items():
            if name.endswith(SECRET_OPTIONS):
                log.hide(value)
        process.prepare(self._args.log)
        with process.Stop().on_signals() as stop, contextlib.ExitStack() as stack:
            stack.callback(event_loop.shared.close)
            host = self._host()
            routes = self._create_routes()
            shutdown = Shutdown(stop.request, lambda: str(self._args.kernel_url))
            table: Routes = {**routes.table(), SHUTDOWN: {"GET": shutdown}}
            server = stack.enter_context(self._listen(host, table))
            self._args.host, self._args.port = host, server.port  # what setup() may look at
            self._embed_kernel(stack)
            self._load()
            stop.eager = False
            routes.ready = True
            with self._registration(host, server.port):
                self._wait(stop)
                self._slots.close()
                deadline = time.monotonic() + self._args.drain_timeout
            self._slots.drain(max(0.0, deadline - time.monotonic()))
        logger.info("stopped")

    def _host(self) -> str | None:
        """Return the address of ours that the Kernel is told; None while that cannot be known."""
        try:
            return str(self._args.host or address.towards(self._args.kernel_url))
        except StartError:
            return None

    def _wait(self, stop: process.Stop) -> None:
        if self._backend.uses_asyncio and not stop.wait(WARM_UP_AFTER):
            stream.warm_up()
        stop.wait()
        logger.info("stopping: running answers may take %g s", self._args.drain_timeout)

    def _create_routes(self) -> ExecutorRoutes:
        return ExecutorRoutes(
            self._paths,
            self._slots,
            self._metrics,
            self._backend.compute,
            self._about,
            on_loop=self._backend.uses_asyncio,
            wire_option=self._args.wire,
            log_content=self._args.log_content,
            waiting_timeout=self._args.waiting_timeout,
        )

    def _about(self, state: str) -> bytes:
        """Return what /status shows; what that needs is imported when somebody asks."""
        from .status import Status

        return Status(
            self._backend.report,
            self._metrics,
            version=self._backend.version,
            backend=self._backend.name,
            access_codes=self._args.access_code,
            started=self._started,
        ).render(state)

    def _listen(self, host: str | None, routes: Routes) -> Server:
        args = self._args
        bind = args.bind or (address.listening(host) if host else address.everywhere())
        return Server(
            (bind, args.port or 0),
            routes,
            hosts=[host] if host else [],
            origins=args.allowed_hosts,
            any_host=MONITORING,
            limits=Limits(connections=IDLE_CONNECTIONS + len(self._paths)),
            tls=_tls_context(args.tls_cert, args.tls_key) if args.tls_cert else None,
        )

    def _embed_kernel(self, stack: contextlib.ExitStack) -> None:
        if self._args.embedded_kernel:
            from .embedded_kernel import EmbeddedKernel

            host, port = self._args.embedded_kernel
            kernel = EmbeddedKernel(
                host, port, version=self._args.version, allowed_hosts=self._args.allowed_hosts
            )
            self._args.kernel_url = stack.enter_context(kernel).url

    def _load(self) -> None:
        started = time.monotonic()
        try:
            self._backend.setup()
        except (KuwaError, process.Stopped):
            raise
        except Exception as error:  # noqa: BLE001 - the backend's own code
            line = traceback_line(error, with_message=True)
            raise StartError(f"setup failed: {line}{missing_module(error)}") from None
        finally:
            self._backend.report.end()
        self._metrics.load_seconds.set(time.monotonic() - started)

    def _registration(
        self, host: str | None, port: int
    ) -> Registration | contextlib.AbstractContextManager[None]:
        args = self._args
        logger.info(
            "ready: %d slot(s) at %s%s (%d more may wait)",
            args.concurrent_req_limit,
            self._base(host or args.bind or address.everywhere(), port),
            _shown(self._paths[0]),
            args.waiting,
        )
        if args.ignore_kernel:
            return contextlib.nullcontext()
        from .registration import Registration

        return Registration(
            args.kernel_url,
            args.version,
            names=args.access_code,
            locate=lambda: self._endpoints(host, port),
            metrics=self._metrics,
        )

    def _base(self, host: str, port: int) -> str:
        scheme = "https" if self._args.https or self._args.tls_cert else "http"
        return f"{scheme}://{address.join(host, port)}"

    def _endpoints(self, host: str | None, port: int) -> list[str]:
        """Return what the Kernel is told; raises StartError while that cannot be known."""
        base = self._base(host or address.towards(self._args.kernel_url), port)
        return [base + path for path in self._paths]

    def _time_abort(self) -> None:
        """Run the backend's abort(), and return at its end or after ABORT_SECONDS.

        It runs on the event loop; on a thread of its own if that blocks, so that it can end what
        blocks there, or if the backend uses none.
        """
        if self._backend.uses_asyncio:
            ended = event_loop.shared.call(self._abort, ABORT_START_SECONDS)
            if ended is not None:
                ended.wait(ABORT_SECONDS)
                return
        thread = threading.Thread(target=self._abort_alone, name="abort", daemon=True)
        thread.start()
        thread.join(ABORT_SECONDS)

    def _abort_alone(self) -> None:
        import asyncio

        asyncio.run(self._abort())

    async def _abort(self) -> None:
        assert self._backend.abort is not None
        try:
            await self._backend.abort()
        except Exception as error:  # noqa: BLE001 - the backend's own code
            logger.error("abort() failed: %s", traceback_line(error, with_message=False))


def _shown(path: str) -> str:
    """Hide a path that is a secret."""
    return path if len(path) < 32 else "/..."


def _tls_context(certificate: str, key: str) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"cannot use --tls_cert {certificate}: {error.strerror or error}"
        ) from None
    return context
