"""LLMExecutor: what people subclass. Its `run` is the table of contents of a process's life."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from . import address, log, options, process, protocol, stream
from .errors import KuwaError, StartError, UsageError, describe
from .exchange import Limits
from .httpd import Server
from .metrics import Metrics
from .server import ExecutorRoutes
from .slots import Slots

if TYPE_CHECKING:
    import ssl

    from .registration import Registration

logger = logging.getLogger(__name__)

VARIABLE_ARGUMENTS = 0x04  # the flag of a function's code that means *args
WARM_UP_AFTER = 0.2  # seconds; whoever waits for /health comes first
IDLE_CONNECTIONS = 1024  # besides one for each slot

_served = threading.Event()


def has_served() -> bool:
    """Tell whether any executor of this process was run."""
    return _served.is_set()


class LLMExecutor:
    """A model behind a Kernel: subclass it, yield text in `llm_compute`, call `run()`."""

    access_code = ""  # the default of --access_code; empty: taken from the class's name
    uses_asyncio = True  # False: llm_compute awaits nothing but self.pause(), and needs no loop

    def __init__(self) -> None:
        self._args: argparse.Namespace | None = None
        self._program = Path(sys.argv[0]).name
        self._slots: Slots | None = None

    # -- what subclasses give

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add options of your own."""

    def setup(self) -> None:
        """Load the model; `self.args` is ready, /health answers 503 until this returns."""

    def llm_compute(
        self, history: list[dict[str, str]], modelfile: Any
    ) -> AsyncGenerator[str, None]:
        """Yield the answer's text, as an async generator; it may block.

        history: [{"role": "user" | "assistant", "content": text}], the oldest first.
        modelfile: the bot's Modelfile; parameters["_<field>"] holds the other form fields.
        A method with a single parameter gets the raw form instead, as a dictionary of texts.
        What it raises ends the answer with an apology; errors.AnswerError with its own message.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks llm_compute")

    async def abort(self) -> None:
        """Stop a computation that blocks; others are stopped at their next await or piece.

        Called on a thread of its own, and only while no other slot is busy.
        """

    # -- what subclasses may ask

    def pause(self, seconds: float) -> Awaitable[None]:
        """Wait in llm_compute; a stop ends the wait at once, which time.sleep would not."""
        if not self.uses_asyncio:
            return stream.Pause(seconds)
        import asyncio

        return asyncio.sleep(seconds)

    @property
    def args(self) -> argparse.Namespace:
        """Return the parsed options; before `run`, those of the process's command line."""
        if self._args is None:
            self._args = self.parse(None)
        return self._args

    @property
    def kernel_url(self) -> str:
        """Return the Kernel's base URL."""
        return str(self.args.kernel_url)

    @property
    def log_level(self) -> str:
        """Return the level of the log, in upper case."""
        return str(self.args.log)

    def in_debug(self) -> bool:
        """Tell whether the log level is DEBUG."""
        return self.log_level == "DEBUG"

    # -- the life of the process

    def parse(self, argv: Sequence[str] | None, program: str | None = None) -> argparse.Namespace:
        """Parse options (None: the process's own); errors end the process with code 2."""
        self._program = program or self._program
        parser = options.create_parser(self._program, type(self).__doc__ or "")
        parser.set_defaults(access_code=[self.access_code or _code_name(type(self))])
        self.extend_arguments(parser)
        args = parser.parse_args(argv)
        if bool(args.tls_cert) != bool(args.tls_key):
            parser.error("--tls_cert and --tls_key need each other")
        if args.ignore_kernel and args.embedded_kernel:
            parser.error("--ignore_kernel and --embedded_kernel exclude each other")
        return args

    def run(self, argv: Sequence[str] | None = None, *, program: str | None = None) -> None:
        """Serve until a signal says stop; ends the process with one line if that cannot be."""
        process.open_standard_streams()
        _served.set()
        if self._args is None:
            self._args = self.parse(argv, program)
        try:
            self.serve()
        except process.Stopped:
            logger.info("stopped before it was ready")
        except UsageError as error:
            sys.exit(_complain(self._program, error, 2))
        except KuwaError as error:
            sys.exit(_complain(self._program, error, 1))
        finally:
            logging.shutdown()

    def serve(self) -> None:
        """Listen, load, register, wait, unregister, drain; raises KuwaError."""
        process.prepare(self.args.log)
        with process.Stop().on_signals() as stop, contextlib.ExitStack() as stack:
            routes = self._create_routes()
            server = stack.enter_context(self._listen(routes))
            self._embed_kernel(stack)
            self._load()
            stop.eager = False
            routes.ready = True
            with self._registration(server) or contextlib.nullcontext():
                if self.uses_asyncio and not stop.event.wait(WARM_UP_AFTER):
                    stream.warm_up()
                stop.event.wait()
                logger.info("stopping: running answers may take %g s", self.args.drain_timeout)
                self._slots_in_use().close()
                started = time.monotonic()
            left = self.args.drain_timeout - (time.monotonic() - started)
            self._slots_in_use().drain(max(0.0, left))
        logger.info("stopped")

    def _create_routes(self) -> ExecutorRoutes:
        from . import __version__

        count = self.args.concurrent_req_limit
        self.metrics = Metrics(
            self.args.access_code[0],
            backend=type(self).__name__,
            version=__version__,
            slots=count,
        )
        self._slots = Slots(count, self.metrics, self._interrupt)
        self._paths = [protocol.slot_path(self.args.executor_path, n) for n in range(count)]
        return ExecutorRoutes(
            self._paths,
            self._slots,
            self.metrics,
            self._answer,
            on_loop=self.uses_asyncio,
            log_content=self.args.log_content,
        )

    def _listen(self, routes: ExecutorRoutes) -> Server:
        args = self.args
        self._host = args.host or address.towards(args.kernel_url)
        bind = args.bind or address.listening(self._host)
        kernel_host = "" if args.embedded_kernel else urlsplit(args.kernel_url).hostname
        return Server(
            (bind, args.port or 0),
            routes.table(),
            hosts=[name for name in (self._host, kernel_host) if name],
            origins=args.allowed_hosts,
            limits=Limits(connections=IDLE_CONNECTIONS + args.concurrent_req_limit),
            tls=_tls_context(args.tls_cert, args.tls_key) if args.tls_cert else None,
        )

    def _embed_kernel(self, stack: contextlib.ExitStack) -> None:
        if self.args.embedded_kernel:
            from .embedded_kernel import EmbeddedKernel

            host, port = self.args.embedded_kernel
            kernel = EmbeddedKernel(
                host, port, version=self.args.version, allowed_hosts=self.args.allowed_hosts
            )
            self.args.kernel_url = stack.enter_context(kernel).url

    def _load(self) -> None:
        started = time.monotonic()
        try:
            self.setup()
        except (KuwaError, process.Stopped):
            raise
        except Exception as error:
            logger.debug("setup failed", exc_info=True)
            raise StartError(f"setup failed: {describe(error)}: {error}") from None
        self.metrics.load_seconds.set(time.monotonic() - started)

    def _registration(self, server: Server) -> Registration | None:
        args = self.args
        scheme = "https" if args.https or args.tls_cert else "http"
        base = f"{scheme}://{address.join(self._host, server.port)}"
        logger.info("ready: %d slot(s) at %s%s", len(self._paths), base, _shown(self._paths[0]))
        if args.ignore_kernel:
            return None
        from .registration import Registration

        return Registration(
            args.kernel_url,
            args.version,
            names=args.access_code,
            endpoints=[base + path for path in self._paths],
            metrics=self.metrics,
        )

    # -- a chat

    def _slots_in_use(self) -> Slots:
        assert self._slots is not None
        return self._slots

    @cached_property
    def _takes_form(self) -> bool:
        """Tell whether this backend has the older form: llm_compute(self, data)."""
        function: Any = type(self).llm_compute
        function = getattr(function, "__wrapped__", function)  # inspect would cost milliseconds
        code = function.__code__
        return bool(code.co_argcount == 2 and not code.co_flags & VARIABLE_ARGUMENTS)

    def _answer(self, chat: protocol.Chat) -> AsyncGenerator[str, None]:
        if self._takes_form:
            return cast(Any, self.llm_compute)(chat.form)  # type: ignore[no-any-return]
        return self.llm_compute(chat.history, chat.modelfile)

    def _interrupt(self) -> threading.Event | None:
        """Call a subclass's abort() on a thread of its own; return what is set at its end."""
        if type(self).abort is LLMExecutor.abort:
            return None
        ended = threading.Event()
        threading.Thread(target=self._call_abort, args=(ended,), name="abort", daemon=True).start()
        return ended

    def _call_abort(self, ended: threading.Event) -> None:
        import asyncio

        try:
            asyncio.run(cast(Any, self.abort()))
        except Exception as error:  # noqa: BLE001 - the backend's own code
            logger.error("abort() failed: %s", describe(error))
        finally:
            ended.set()


def _code_name(kind: type) -> str:
    return kind.__name__.removesuffix("Executor").lower() or "executor"


def _complain(program: str, error: KuwaError, code: int) -> int:
    sys.stderr.write(f"{program}: error: {log.one_line(str(error))}\n")
    return code


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
