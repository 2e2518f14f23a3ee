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
ABORT_SECONDS = 5.0  # for which the next chat waits for a subclass's abort()
SECRET_OPTIONS = ("_key", "_token", "_password", "_secret")  # whose values the log never holds
WARM_UP_AFTER = 0.2  # seconds; whoever waits for /health comes first
IDLE_CONNECTIONS = 1024  # besides one for each slot

_served = threading.Event()


def has_served() -> bool:
    """Tell whether any executor of this process was run."""
    return _served.is_set()


class LLMExecutor:
    """A model behind a Kernel: subclass it, yield text in `llm_compute`, call `run()`.

    Its own members begin with two underscores, so that a subclass may use any name it likes.
    """

    access_code = ""  # the default of --access_code; empty: taken from the class's name
    uses_asyncio = True  # False: llm_compute awaits nothing but self.pause(), and needs no loop

    def __init__(self) -> None:
        self.__args: argparse.Namespace | None = None
        self.__program = Path(sys.argv[0]).name
        self.__slots: Slots | None = None

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
        if self.__args is None:
            self.__args = self.__parse(None)
        return self.__args

    @property
    def LLM_name(self) -> list[str]:  # noqa: N802 - what older files written for Kuwa look for
        """Return the access codes."""
        return list(self.args.access_code)

    @LLM_name.setter
    def LLM_name(self, names: str | list[str]) -> None:  # noqa: N802
        self.args.access_code = [names] if isinstance(names, str) else list(names)

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

    def __parse(self, argv: Sequence[str] | None, program: str | None = None) -> argparse.Namespace:
        """Parse options (None: the process's own); errors end the process with code 2."""
        self.__program = program or self.__program
        parser = options.create_parser(self.__program, type(self).__doc__ or "")
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
        if self.__args is None:
            self.__args = self.__parse(argv, program)
        try:
            self.__serve()
        except process.Stopped:
            logger.info("stopped before it was ready")
        except UsageError as error:
            sys.exit(_complain(self.__program, error, 2))
        except KuwaError as error:
            sys.exit(_complain(self.__program, error, 1))
        finally:
            logging.shutdown()

    def __serve(self) -> None:
        """Listen, load, register, wait, unregister, drain; raises KuwaError."""
        for name, value in vars(self.args).items():
            if name.endswith(SECRET_OPTIONS):
                log.hide(value)
        process.prepare(self.args.log)
        with process.Stop().on_signals() as stop, contextlib.ExitStack() as stack:
            routes = self.__create_routes()
            server = stack.enter_context(self.__listen(routes))
            self.__embed_kernel(stack)
            self.__load()
            stop.eager = False
            routes.ready = True
            with self.__registration(server) or contextlib.nullcontext():
                if self.uses_asyncio and not stop.event.wait(WARM_UP_AFTER):
                    stream.warm_up()
                stop.event.wait()
                logger.info("stopping: running answers may take %g s", self.args.drain_timeout)
                self.__slots_in_use().close()
                started = time.monotonic()
            left = self.args.drain_timeout - (time.monotonic() - started)
            self.__slots_in_use().drain(max(0.0, left))
        logger.info("stopped")

    def __create_routes(self) -> ExecutorRoutes:
        from . import __version__

        count = self.args.concurrent_req_limit
        self.__metrics = Metrics(
            self.args.access_code[0],
            backend=type(self).__name__,
            version=__version__,
            slots=count,
        )
        self.__slots = Slots(count, self.__metrics, self.__interrupt)
        self.__paths = [protocol.slot_path(self.args.executor_path, n) for n in range(count)]
        return ExecutorRoutes(
            self.__paths,
            self.__slots,
            self.__metrics,
            self.__answer,
            on_loop=self.uses_asyncio,
            log_content=self.args.log_content,
        )

    def __listen(self, routes: ExecutorRoutes) -> Server:
        args = self.args
        self.__host = args.host or address.towards(args.kernel_url)
        bind = args.bind or address.listening(self.__host)
        kernel_host = "" if args.embedded_kernel else urlsplit(args.kernel_url).hostname
        return Server(
            (bind, args.port or 0),
            routes.table(),
            hosts=[name for name in (self.__host, kernel_host) if name],
            origins=args.allowed_hosts,
            limits=Limits(connections=IDLE_CONNECTIONS + args.concurrent_req_limit),
            tls=_tls_context(args.tls_cert, args.tls_key) if args.tls_cert else None,
        )

    def __embed_kernel(self, stack: contextlib.ExitStack) -> None:
        if self.args.embedded_kernel:
            from .embedded_kernel import EmbeddedKernel

            host, port = self.args.embedded_kernel
            kernel = EmbeddedKernel(
                host, port, version=self.args.version, allowed_hosts=self.args.allowed_hosts
            )
            self.args.kernel_url = stack.enter_context(kernel).url

    def __load(self) -> None:
        started = time.monotonic()
        try:
            self.setup()
        except (KuwaError, process.Stopped):
            raise
        except Exception as error:
            logger.debug("setup failed", exc_info=True)
            raise StartError(f"setup failed: {describe(error)}: {error}") from None
        self.__metrics.load_seconds.set(time.monotonic() - started)

    def __registration(self, server: Server) -> Registration | None:
        args = self.args
        scheme = "https" if args.https or args.tls_cert else "http"
        base = f"{scheme}://{address.join(self.__host, server.port)}"
        logger.info("ready: %d slot(s) at %s%s", len(self.__paths), base, _shown(self.__paths[0]))
        if args.ignore_kernel:
            return None
        from .registration import Registration

        return Registration(
            args.kernel_url,
            args.version,
            names=args.access_code,
            endpoints=[base + path for path in self.__paths],
            metrics=self.__metrics,
        )

    # -- a chat

    def __slots_in_use(self) -> Slots:
        assert self.__slots is not None
        return self.__slots

    @cached_property
    def __takes_form(self) -> bool:
        """Tell whether this backend has the older form: llm_compute(self, data)."""
        function: Any = type(self).llm_compute
        while hasattr(function, "__wrapped__"):  # inspect would cost milliseconds
            function = function.__wrapped__
        code = function.__code__
        return bool(code.co_argcount == 2 and not code.co_flags & VARIABLE_ARGUMENTS)

    def __answer(self, chat: protocol.Chat) -> AsyncGenerator[str, None]:
        if self.__takes_form:
            return cast(Any, self.llm_compute)(chat.form)  # type: ignore[no-any-return]
        return self.llm_compute(chat.history, chat.modelfile)

    def __interrupt(self) -> threading.Event | None:
        """Call a subclass's abort() on a thread of its own; return what is set at its end."""
        if type(self).abort is LLMExecutor.abort:
            return None
        ended = threading.Event()
        threading.Thread(target=self.__time_abort, args=(ended,), name="abort", daemon=True).start()
        return ended

    def __time_abort(self, ended: threading.Event) -> None:
        """Let abort() run, but let nobody wait for it too long."""
        call = threading.Thread(target=self.__call_abort, name="abort", daemon=True)
        call.start()
        call.join(ABORT_SECONDS)
        ended.set()

    def __call_abort(self) -> None:
        import asyncio

        try:
            asyncio.run(cast(Any, self.abort()))
        except Exception as error:  # noqa: BLE001 - the backend's own code
            logger.error("abort() failed: %s", describe(error))


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
