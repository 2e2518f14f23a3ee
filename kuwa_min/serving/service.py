"""The life of an executor's process: listen, load, register, answer until a signal, drain.

All of it runs on the main thread. It knows no LLMExecutor: a Backend says what to serve.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from kuwa_min import process
from kuwa_min.chat.chunks import Piece
from kuwa_min.errors import KuwaError, StartError, import_advice, traceback_line
from kuwa_min.httpd.limits import Limits
from kuwa_min.httpd.messages import Routes
from kuwa_min.httpd.server import Server
from kuwa_min.kernel import protocol
from kuwa_min.log import redaction
from kuwa_min.options.address import join_host_port
from kuwa_min.options.general import API, GeneralOptions

from .api_routes import ApiRoutes
from .backend_abort import BackendAbort
from .commands.abort_policy import AbortPolicy
from .commands.kernel_addresses import KernelAddresses
from .commands.shutdown import PATH as SHUTDOWN
from .commands.shutdown import ShutdownRoute
from .connection_limits import connection_limits
from .event_loop import EventLoop
from .generations.factory import GenerationFactory
from .local_address import listening_address, source_address, wildcard
from .metrics import Metrics
from .openai_api.access import Access, read_tokens
from .routes import HEALTH, MONITORING, READY, ExecutorRoutes
from .slots import Slots

if TYPE_CHECKING:
    import ssl

    from .backend_status import BackendStatus
    from .registration import Registration

logger = logging.getLogger(__name__)

WARM_UP_AFTER = 0.2  # seconds after ready: clients that wait for /health come first


class Backend(NamedTuple):
    """What to serve. Each call is made by the service, on the thread that its comment names."""

    name: str
    version: str
    listening: Callable[[Listening], None]  # on the main thread, before setup
    setup: Callable[[], None]  # on the main thread, once
    # On the event loop, or on a thread per chat without asyncio:
    compute: Callable[[protocol.ChatRequest], AsyncGenerator[Piece, None]]
    abort: Callable[[], Coroutine[Any, Any, None]] | None  # see BackendAbort
    uses_asyncio: bool
    status: BackendStatus
    features: Callable[[], Collection[str]]  # on the thread of each request


class Listening(NamedTuple):
    """Where the process listens, and for which Kernel."""

    host: str | None  # None while that cannot be known
    port: int
    kernel_url: str


class Service:
    """One process that serves one backend with these options, which it only reads.

    args: the general options; those that a backend adds are read only to hide secrets in the log.
    """

    def __init__(self, backend: Backend, args: GeneralOptions) -> None:
        self._backend, self._args = backend, args
        self._kernel_url = args.kernel_url
        self._loop = EventLoop() if backend.uses_asyncio else None
        count, waiting = args.concurrent_req_limit, args.waiting
        self._metrics = Metrics(
            args.access_code[0], backend=backend.name, version=backend.version, slots=count
        )
        backend.status.on_tokens = self._metrics.count_tokens
        backend.status.add_metric = self._metrics.add
        self._started = time.monotonic()
        abort = BackendAbort(backend.abort, self._loop).run if backend.abort is not None else None
        self._has_api = args.api != API[-1]
        self._api = self._open_api()
        others = count + waiting if self._has_api else 0
        self._slots = Slots(count, self._metrics, abort, waiting=waiting, others=others)
        self._generations = GenerationFactory(
            self._slots,
            self._metrics,
            backend.compute,
            waiting_timeout=args.waiting_timeout,
            loop=self._loop,
            log_content=args.log_content,
        )
        self._paths = [
            protocol.endpoint_path(args.executor_path, index) for index in range(count + waiting)
        ]

    def run(self) -> None:
        """Serve until a signal; raises KuwaError, or process.Stopped at a signal while loading."""
        redaction.hide_options(vars(self._args))
        redaction.hide_environment(os.environ)
        redaction.allow_content(self._args.log_content)
        process.prepare(self._args.log)
        self._limits = self._connection_limits()
        stop = process.Stop()
        try:
            self._listen_and_serve(stop)
        except process.Stopped:
            if stop.eager and not stop.failure:
                raise
        if stop.failure:
            raise StartError(stop.failure)
        logger.info("stopped")

    def _listen_and_serve(self, stop: process.Stop) -> None:
        with stop.on_signals(), contextlib.ExitStack() as stack:
            if self._loop is not None:
                stack.callback(self._loop.close)
            host = self._host()
            kernel = KernelAddresses(lambda: self._kernel_url)
            routes = self._create_routes(kernel)
            shutdown = ShutdownRoute(stop.request, kernel)
            table: Routes = {
                **routes.table(),
                SHUTDOWN: {"GET": shutdown},
                **self._api_table(lambda: routes.ready),
            }
            server = stack.enter_context(self._listen(host, table))
            self._start_embedded_kernel(stack, routes.render_status)
            self._backend.listening(Listening(host, server.port, self._kernel_url))
            self._load()
            stop.eager = False
            routes.ready = True
            self._serve(stop, host, server)

    def _serve(self, stop: process.Stop, host: str | None, server: Server) -> None:
        """Be registered until a signal, then drain; a second signal cuts both short."""
        try:
            with self._registration(host, server.port):
                self._wait(stop, server)
                self._slots.close()
                deadline = time.monotonic() + self._args.drain_timeout
            self._slots.drain(max(0.0, deadline - time.monotonic()))
        except process.Stopped:
            logger.warning("asked to stop again: running answers are cut")
            self._slots.close()
            self._slots.drain(0)

    def _host(self) -> str | None:
        """Return the host that is registered; None while the Kernel's name does not resolve."""
        try:
            return self._args.host or source_address(self._kernel_url)
        except StartError:
            return None

    def _wait(self, stop: process.Stop, server: Server) -> None:
        if not stop.wait(WARM_UP_AFTER):
            server.delegate(HEALTH, READY)
            if self._loop is not None:
                self._loop.start()  # before the first chat would wait for it
        stop.wait()
        logger.info("stopping: running answers may take %g s", self._args.drain_timeout)

    def _create_routes(self, kernel: KernelAddresses) -> ExecutorRoutes:
        return ExecutorRoutes(
            self._paths,
            self._slots,
            self._metrics,
            self._generations,
            self._render_status,
            abort_policy=AbortPolicy(kernel if self._args.abort_from == "kernel" else None),
            wire_option=self._args.wire,
        )

    def _open_api(self) -> Access:
        """Return the rules of /v1; raises UsageError for bad tokens."""
        args = self._args
        tokens = read_tokens(args.api_token, args.api_token_file)
        return Access(tokens, args.cors_origin if self._has_api else [], anywhere=args.api == "on")

    def _api_table(self, is_ready: Callable[[], bool]) -> Routes:
        if not self._has_api:
            return {}
        return ApiRoutes(
            self._args.access_code,
            self._api,
            self._slots,
            self._metrics,
            self._generations,
            features=self._backend.features,
            is_ready=is_ready,
        ).table()

    def _render_status(self, state: str) -> bytes:
        """Return the JSON of /status; its imports wait for the first request."""
        from .status import ExecutorStatus

        return ExecutorStatus(
            self._backend.status,
            self._metrics,
            version=self._backend.version,
            backend=self._backend.name,
            access_codes=self._args.access_code,
            started=self._started,
        ).render(state)

    def _connection_limits(self) -> Limits:
        return connection_limits(
            process.open_file_limit(),
            slots=self._args.concurrent_req_limit,
            endpoints=len(self._paths) * (2 if self._has_api else 1),
            servers=2 if self._args.embedded_kernel else 1,
        )

    def _listen(self, host: str | None, routes: Routes) -> Server:
        args, api = self._args, self._api
        return Server(
            (listening_address(host, args.bind), args.port or 0),
            routes,
            hosts=[host] if host else [],
            origins=args.allowed_hosts,
            any_host_paths=MONITORING,
            limits=self._limits,
            tls=self._tls_context(),
            is_shared=api.is_shared,
            needs_token=api.needs_token,
            render_error=api.render_error,
        )

    def _tls_context(self) -> ssl.SSLContext | None:
        certificate, key = self._args.tls_cert, self._args.tls_key
        if not (certificate and key):
            return None
        from .tls import create_tls_context

        return create_tls_context(certificate, key)

    def _start_embedded_kernel(
        self, stack: contextlib.ExitStack, own_status: Callable[[], bytes]
    ) -> None:
        """Start the Kernel of --embedded_kernel, if given; it takes the place of --kernel_url."""
        if self._args.embedded_kernel:
            from kuwa_min.kernel.embedded import EmbeddedKernel

            host, port = self._args.embedded_kernel
            kernel = EmbeddedKernel(
                host,
                port,
                version=self._args.version,
                allowed_hosts=self._args.allowed_hosts,
                executor_hosts=self._args.executor_hosts,
                limits=self._limits,
                own_status=own_status,
                address_options="--embedded_kernel",
            )
            self._kernel_url = stack.enter_context(kernel).url

    def _load(self) -> None:
        started = time.monotonic()
        try:
            self._backend.setup()
        except (KuwaError, process.Stopped):
            raise
        except Exception as error:  # noqa: BLE001 - the backend's own code
            line = traceback_line(error, with_message=True)
            raise StartError(f"setup failed: {line}{import_advice(error)}") from None
        finally:
            self._backend.status.end()
        self._metrics.load_seconds.set(time.monotonic() - started)

    def _registration(
        self, host: str | None, port: int
    ) -> Registration | contextlib.AbstractContextManager[None]:
        args = self._args
        logger.info(
            "ready: %d slot(s) at %s%s (%d more may wait)",
            args.concurrent_req_limit,
            self._base_url(host or args.bind or wildcard(), port),
            self._paths[0],
            args.waiting,
        )
        if args.ignore_kernel:
            return contextlib.nullcontext()
        from .registration import Registration

        return Registration(
            self._kernel_url,
            args.version,
            names=args.access_code,
            resolve_endpoints=lambda: self._endpoint_urls(host, port),
            metrics=self._metrics,
            page=self._kernel_url if args.embedded_kernel else None,
        )

    def _base_url(self, host: str, port: int) -> str:
        scheme = "https" if self._args.https or self._args.tls_cert else "http"
        return f"{scheme}://{join_host_port(host, port)}"

    def _endpoint_urls(self, host: str | None, port: int) -> list[str]:
        """Return the URLs to register; raises StartError if the Kernel's name does not resolve."""
        base = self._base_url(host or source_address(self._kernel_url), port)
        return [base + path for path in self._paths]
