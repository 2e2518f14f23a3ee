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
from urllib.parse import urlsplit

from . import address, log, process, protocol, stream
from .errors import KuwaError, StartError, UsageError, missing_module, traceback_line
from .exchange import Limits
from .httpd import Server
from .metrics import Metrics
from .server import ExecutorRoutes
from .slots import Slots

if TYPE_CHECKING:
    import ssl

    from .registration import Registration
    from .report import Report

logger = logging.getLogger(__name__)

ABORT_SECONDS = 5.0  # for which the next chat waits for a backend's abort()
SECRET_OPTIONS = ("_key", "_token", "_password", "_secret")  # whose values the log never holds
WARM_UP_AFTER = 0.2  # seconds; whoever waits for /health comes first
IDLE_CONNECTIONS = 1024  # besides one for each slot


class Backend(NamedTuple):
    """What is served: how it loads, answers and stops."""

    name: str
    version: str
    setup: Callable[[], None]
    compute: Callable[[protocol.Chat], AsyncGenerator[str, None]]
    abort: Callable[[], Coroutine[Any, Any, None]] | None
    uses_asyncio: bool
    report: Report


class Service:
    """One process that serves one backend with these options."""

    def __init__(self, backend: Backend, args: argparse.Namespace) -> None:
        self._backend, self._args = backend, args
        count = args.concurrent_req_limit
        self._metrics = Metrics(
            args.access_code[0], backend=backend.name, version=backend.version, slots=count
        )
        backend.report.on_tokens = self._metrics.count_tokens
        self._started = time.monotonic()
        self._slots = Slots(count, self._metrics, self._interrupt)
        self._paths = [protocol.slot_path(args.executor_path, index) for index in range(count)]

    def run(self) -> None:
        """Serve until a signal says stop; raises KuwaError, or process.Stopped while loading."""
        for name, value in vars(self._args).items():
            if name.endswith(SECRET_OPTIONS):
                log.hide(value)
        process.prepare(self._args.log)
        with process.Stop().on_signals() as stop, contextlib.ExitStack() as stack:
            host = self._args.host or address.towards(self._args.kernel_url)
            routes = self._create_routes()
            server = stack.enter_context(self._listen(host, routes))
            self._args.host, self._args.port = host, server.port  # what setup() may look at
            self._embed_kernel(stack)
            self._load()
            stop.eager = False
            routes.ready = True
            with self._registration(host, server.port):
                self._wait(stop.event)
                self._slots.close()
                deadline = time.monotonic() + self._args.drain_timeout
            self._slots.drain(max(0.0, deadline - time.monotonic()))
        logger.info("stopped")

    def _wait(self, stop: threading.Event) -> None:
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
            log_content=self._args.log_content,
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

    def _listen(self, host: str, routes: ExecutorRoutes) -> Server:
        args = self._args
        kernel_host = "" if args.embedded_kernel else urlsplit(args.kernel_url).hostname
        return Server(
            (args.bind or address.listening(host), args.port or 0),
            routes.table(),
            hosts=[name for name in (host, kernel_host) if name],
            origins=args.allowed_hosts,
            limits=Limits(connections=IDLE_CONNECTIONS + args.concurrent_req_limit),
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
        self, host: str, port: int
    ) -> Registration | contextlib.AbstractContextManager[None]:
        args = self._args
        scheme = "https" if args.https or args.tls_cert else "http"
        base = f"{scheme}://{address.join(host, port)}"
        logger.info("ready: %d slot(s) at %s%s", len(self._paths), base, _shown(self._paths[0]))
        if args.ignore_kernel:
            return contextlib.nullcontext()
        from .registration import Registration

        return Registration(
            args.kernel_url,
            args.version,
            names=args.access_code,
            endpoints=[base + path for path in self._paths],
            metrics=self._metrics,
        )

    def _interrupt(self) -> threading.Event | None:
        """Call the backend's abort() on a thread of its own; return what is set at its end."""
        if self._backend.abort is None:
            return None
        ended = threading.Event()
        threading.Thread(target=self._time_abort, args=(ended,), name="abort", daemon=True).start()
        return ended

    def _time_abort(self, ended: threading.Event) -> None:
        """Let abort() run, but let nobody wait for it too long."""
        call = threading.Thread(target=self._call_abort, name="abort", daemon=True)
        call.start()
        call.join(ABORT_SECONDS)
        ended.set()

    def _call_abort(self) -> None:
        import asyncio

        assert self._backend.abort is not None
        try:
            asyncio.run(self._backend.abort())
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
