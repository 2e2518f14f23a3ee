"""LLMExecutor, the class that custom executors and backends derive from."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kuwa_min.chat.chunks import Piece
from kuwa_min.kernel import protocol
from kuwa_min.options import general
from kuwa_min.serving import usage
from kuwa_min.serving.backend_status import BackendStatus
from kuwa_min.serving.generations import generator_runner
from kuwa_min.serving.generations.generator_adapter import as_generator
from kuwa_min.serving.service import Backend, Listening, Service

from . import log, process
from .errors import KuwaError, StartError, traceback_line
from .kuwa_attributes import Headers, KuwaAttributes, View, class_defaults, follow_options
from .log import redaction

if TYPE_CHECKING:
    from types import CodeType

    from .progress import Progress

logger = logging.getLogger(__name__)

VARIABLE_ARGUMENTS = 0x04  # co_flags of a function that takes *args

_run_called = threading.Event()  # by any executor in this process


def has_run() -> bool:
    """Tell whether a custom executor's file has called `run` itself, as files for Kuwa do.

    Called by the command line once it has executed the file, to which it passes nothing else.
    """
    return _run_called.is_set()


class LLMExecutor(KuwaAttributes):
    """A model behind a Kernel: subclass it, yield text in `llm_compute`, call `run()`.

    Subclasses implement `extend_arguments`, `setup` and `llm_compute` (or `serve`, `abort`,
    `check_arguments`, `api_features`); they may call `pause`, `on_stop`, `progress`, `describe`,
    `measure`, `count_tokens`, `end_answer`, `keep_secret`, read the options, and replace the
    members of KuwaAttributes. All other members begin with two underscores, so that every other
    name is free.

    Threads: `__init__`, `extend_arguments` and `setup` run on the main thread. `llm_compute` and
    `abort` run on the event loop that all chats share, or, with `uses_asyncio = False`, on the HTTP
    worker thread of each chat.
    """

    access_code = ""  # the default of --access_code; empty: taken from the class's name
    # True: all chats run on one event loop. False: each runs on a thread of its own, and
    # llm_compute may await nothing but self.pause().
    uses_asyncio = True

    def __init__(self) -> None:
        self.__args: general.GeneralOptions | None = None  # None until parsed
        self.__file_args: argparse.Namespace | None = None  # what `args` returns instead
        self.__default_codes: list[str] = []  # the very list that is the default of --access_code
        self.__program = process.program_name()
        self.__status = BackendStatus()
        self.__parser = general.create_parser(self.__program, type(self).__doc__ or "")
        actions = general.actions_of(self.__parser)
        self.extend_arguments(self.__parser)
        self.__replaced = general.replaced_defaults(self.__parser, actions)

    # -- to be implemented by subclasses

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add options; called once, by __init__."""

    def check_arguments(self, carried: Collection[str] | None) -> Iterable[str]:
        """Return lines for --check about what `self.args` names; nothing is loaded.

        carried: names of the packages in a file, which is not unpacked; None: those of this Python
        count. Raises KuwaError for what a start would refuse.
        """
        return ()

    def setup(self) -> None:
        """Load the model; `self.args` is set, and /health returns 503 until this returns.

        Called once, on the main thread. What it raises ends the process.
        """

    def llm_compute(
        self, history: list[dict[str, str]], modelfile: Any
    ) -> AsyncGenerator[Piece, None]:
        """Yield the answer's pieces: an async generator.

        A piece is text, a chunk of `kuwa_min.chat.chunks`, or a list of chunks that belong
        together.
        history: [{"role": "user" | "assistant", "content": text}], the oldest first.
        modelfile: the bot's Modelfile; parameters["_<field>"] holds the other form fields.
        A method with a single parameter gets the raw form instead, as a dictionary of texts.

        Called once a chat. It may block; with `uses_asyncio` that blocks all other chats, too. When
        the chat is stopped, the generator is closed at its next await or yield. What it raises ends
        the answer with an apology; errors.AnswerError with its own message.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks llm_compute")

    def serve(
        self, header: Mapping[str, str], content: Mapping[str, str]
    ) -> AsyncGenerator[Piece, None]:
        """Answer a request; calls llm_compute unless a subclass overrides this.

        header: the request's header fields; names in any case. content: its form.
        """
        language, base_urls = header.get("accept-language"), header.get("x-kuwa-api-base-urls")
        return self.__answer(protocol.parse_chat_request(dict(content), language, base_urls))

    def api_features(self) -> Collection[str]:
        """Return what clients of /v1 may ask for beyond text; called for each request.

        images: as links in the text. tools: functions, told in a system message. json_schema:
        answers that match llm_json_schema. raw_prompt: text that is continued, if
        modelfile.extras.raw_prompt. tool_template: functions are not told in a system message, but
        are in modelfile.extras.tools. logprobs: text as LogprobsChunk, if modelfile.extras.logprobs
        is not None. Other requests are refused; functions that need not be called are left out.
        """
        return ("images",)

    async def abort(self) -> Any:
        """Stop a computation that blocks; others are stopped at their next await or piece.

        It cannot tell chats apart, so it is called only while no other chat computes: on the event
        loop, or on a thread of its own if the loop blocks or the class uses none. No chat starts
        until it has returned.
        """

    # -- to be called by subclasses

    def pause(self, seconds: float) -> Awaitable[None]:
        """Wait some seconds in llm_compute; unlike time.sleep, a stop ends the wait at once."""
        if not self.uses_asyncio:
            return generator_runner.Pause(seconds)
        import asyncio

        return asyncio.sleep(seconds)

    def on_stop(self, call: Callable[[], None]) -> None:
        """Register a call for when the current chat is stopped; it is made now if it was.

        The call is made on the thread that stops the chat, also while llm_compute blocks: it must
        not wait. It is made once at most, and not after the answer's own end. Register in
        llm_compute, or in a task or asyncio.to_thread() of it; elsewhere this does nothing.
        """
        generator_runner.on_stop(call)

    def progress(self, what: str) -> Progress:
        """Begin a progress bar for setup(); call the result with (done, total), in any unit.

        It is shown on a terminal, as a line of the log per tenth elsewhere, and at /status.
        """
        return self.__status.begin(what)

    def describe(self, **facts: Any) -> None:
        """Add facts about the model to /status, which is public: no secrets.

        Values of other than JSON's types are shown as text; a function, which returns JSON's types,
        is called at each request, on any thread. A name given again is replaced.
        """
        self.__status.describe(facts)

    def measure(self, name: str, text: str, function: Callable[[], float]) -> None:
        """Add a number to /metrics, computed at each request: a counter if it ends in _total."""
        self.__status.add_metric(name, text, function)

    def count_tokens(self, *, read: int = 0, written: int = 0, cached: int = 0) -> None:
        """Add prompt tokens (read) and completion tokens (written) to /metrics; thread-safe.

        cached: those of the prompt that were not computed, as a cache had them. In llm_compute, its
        tasks and asyncio.to_thread() they also count for the chat's `usage`, which is sent to
        Kuwa 0.4 and to clients of /v1.
        """
        self.__status.on_tokens(read, written, cached)
        usage.count(read, written, cached)

    def end_answer(self, reason: str) -> None:
        """Say to clients of /v1 why an answer ends: "length" if it was cut, else "stop".

        Call it where count_tokens counts for the chat.
        """
        usage.end(reason)

    def keep_secret(self, secret: str) -> None:
        """Mask a key in all lines of the log, those of libraries included, from now on."""
        redaction.hide(secret)

    @property
    def args(self) -> argparse.Namespace:
        """Return the parsed options; before `run`, those of the process's command line."""
        if self.__file_args is None:
            parsed = self.__options()  # may set __file_args
            return self.__file_args or parsed
        return self.__file_args

    @args.setter
    def args(self, args: argparse.Namespace) -> None:
        """Replace what `args` returns, for files that parse options themselves; ours stay."""
        self.__file_args = args

    @View
    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of the options, those of extend_arguments included."""
        return self.__parser

    @property
    def LLM_name(self) -> list[str]:  # noqa: N802 - the name in older files written for Kuwa
        """Return the access codes."""
        return list(self.__options().access_code)

    @LLM_name.setter
    def LLM_name(self, names: str | list[str]) -> None:  # noqa: N802
        """Set the access codes unless --access_code was given, which wins as in Kuwa 0.3.4."""
        args = self.__options()
        if args.access_code is self.__default_codes:
            args.access_code = self.__default_codes = _list(names)

    # -- the life of the process

    def __options(self) -> general.GeneralOptions:
        if self.__args is None:
            self.__args = self.__parse(None)
        return self.__args

    def __parse(self, argv: Sequence[str] | None) -> general.GeneralOptions:
        """Parse options (None: the process's own); errors end the process with code 2."""
        parser = self.__parser
        self.__default_codes = self.__access_codes()
        parser.set_defaults(access_code=self.__default_codes, **class_defaults(type(self)))
        args = self.__with_our_defaults(parser.parse_args(argv, general.GeneralOptions()))
        if args.waiting is None:
            args.waiting = args.concurrent_req_limit
        if bool(args.tls_cert) != bool(args.tls_key):
            parser.error("--tls_cert and --tls_key need each other")
        has_token = args.api_token or args.api_token_file
        if args.api == "on" and not has_token:
            parser.error("--api on needs --api_token_file or --api_token")
        if "*" in args.cors_origin and not has_token:
            parser.error("--cors_origin * needs --api_token_file or --api_token")
        if args.ignore_kernel and args.embedded_kernel:
            parser.error("--ignore_kernel and --embedded_kernel exclude each other")
        return args

    def __with_our_defaults(self, args: general.GeneralOptions) -> general.GeneralOptions:
        """Return the options with our defaults for those that the file has replaced.

        The file sees its own values in `args`.
        """
        if not self.__replaced:
            return args
        self.__file_args = args
        return general.GeneralOptions(**{**vars(args), **self.__replaced})

    def __access_codes(self) -> list[str]:
        """Return the default of --access_code; older files give it as a class's LLM_name."""
        name: Any = getattr(type(self), "LLM_name", None)
        name = None if isinstance(name, property) else name
        return _list(name or self.access_code or _default_code(type(self)))

    def run(self, argv: Sequence[str] | None = None, *, program: str | None = None) -> None:
        """Serve until a signal; an error ends the process with one line.

        argv: the options; None: those of the process. program: its name in messages.
        """
        process.open_standard_streams()
        _run_called.set()
        self.__program = self.__parser.prog = program or self.__program
        if self.__args is None:
            self.__args = self.__parse(argv)
        follow_options(self, self.__args)
        try:
            Service(self.__backend(), self.__args).run()
        except process.Stopped:
            logger.info("stopped before it was ready")
        except KuwaError as error:
            sys.exit(log.write_error(self.__program, error))
        except Exception as error:  # noqa: BLE001 - such as no memory for the first threads
            line = traceback_line(error, with_message=True)
            sys.exit(log.write_error(self.__program, StartError(f"it cannot go on: {line}")))
        finally:
            logging.shutdown()

    def __backend(self) -> Backend:
        from . import __version__

        return Backend(
            name=type(self).__name__,
            version=__version__,
            listening=self.__publish,
            setup=self.setup,
            compute=self.__compute,
            abort=None if type(self).abort is LLMExecutor.abort else self.__abort,
            uses_asyncio=self.uses_asyncio,
            features=self.api_features,
            status=self.__status,
        )

    def __publish(self, listening: Listening) -> None:
        """Set what setup() may read in `args`: where we listen, and the embedded Kernel's URL."""
        args = self.__options()
        args.host, args.port, args.kernel_url = listening

    async def __abort(self) -> None:
        result: Any = self.abort()
        if hasattr(result, "__await__"):  # not of a plain function
            await result

    def __compute(self, chat: protocol.ChatRequest) -> AsyncGenerator[Piece, None]:
        if type(self).serve is not LLMExecutor.serve:
            return as_generator(self.serve(Headers(chat.headers), chat.form))
        return self.__answer(chat)

    def __answer(self, chat: protocol.ChatRequest) -> AsyncGenerator[Piece, None]:
        compute: Any = self.llm_compute
        if self.__takes_form:
            return as_generator(compute(chat.form))
        if self.__takes_names:
            return as_generator(compute(history=chat.history, modelfile=chat.modelfile))
        return as_generator(compute(chat.history, chat.modelfile))

    @cached_property
    def __code(self) -> CodeType | None:
        """Return the code of the subclass's llm_compute; None for callables of other kinds."""
        function: Any = type(self).llm_compute
        while hasattr(function, "__wrapped__"):  # importing inspect would take milliseconds
            function = function.__wrapped__
        return getattr(function, "__code__", None)

    @cached_property
    def __takes_form(self) -> bool:
        """Tell whether llm_compute has the older form, llm_compute(self, data)."""
        code = self.__code
        if code is None or code.co_flags & VARIABLE_ARGUMENTS:
            return False
        return code.co_argcount == 2 and not code.co_kwonlyargcount

    @cached_property
    def __takes_names(self) -> bool:
        """Tell whether llm_compute has parameters of Kuwa's names, in any order."""
        code = self.__code
        if code is None:
            return False
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        return {"history", "modelfile"} <= set(names)


def _list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _default_code(kind: type) -> str:
    return kind.__name__.removesuffix("Executor").lower() or "executor"
