"""The command-line options that every executor has."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from kuwa_min import log
from kuwa_min.chat.modelfile import is_unicode
from kuwa_min.log.parser import SafeParser

from . import address, types

KERNEL_URL = "http://127.0.0.1:9000/"
KERNEL_ADDRESS = "127.0.0.1:9000"
INTERFACE_VERSION = "v1.0"
MAX_HINTS = 3  # options named in a hint
WIRE_FORMATS = ("auto", "0.3", "0.4")  # choices of --wire, the default first
ABORT_FROM = ("any", "kernel")  # choices of --abort_from
API = ("loopback", "on", "off")  # choices of --api, the default first

# The options of Kuwa's own executors.
KUWA_OPTIONS = {
    "access_code",
    "concurrent_req_limit",
    "executor_path",
    "host",
    "https",
    "ignore_kernel",
    "kernel_url",
    "log",
    "port",
}


class GeneralOptions(argparse.Namespace):
    """The values of the general options, as the functions below define them."""

    access_code: list[str]  # the first one labels metrics
    version: str
    kernel_url: str
    ignore_kernel: bool
    embedded_kernel: tuple[str, int] | None  # host and port; None: start none
    executor_hosts: list[str]
    host: str | None
    bind: str | None
    port: int | None
    executor_path: str
    https: bool
    tls_cert: str | None  # tls_cert and tls_key: both or none
    tls_key: str | None
    allowed_hosts: list[str]
    abort_from: str  # one of ABORT_FROM
    api: str  # one of API
    api_token: list[str]
    api_token_file: str | None
    cors_origin: list[str]
    concurrent_req_limit: int
    waiting: int  # chats; once parsed, None has become concurrent_req_limit
    waiting_timeout: float  # seconds
    wire: str  # one of WIRE_FORMATS
    drain_timeout: float  # seconds
    log: str  # one of log.LEVELS
    log_content: bool


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show every option's default exactly once."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if "(default:" in text or action.default is argparse.SUPPRESS:
            return text
        return text + " (default: %(default)s)"


class Parser(SafeParser):
    """Accept no abbreviations, but suggest the options that an unknown one may stand for."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Parse options; an unknown one ends the process with exit code 2."""
        parsed: argparse.Namespace
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line: the usage would fill a screen of the log."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def _hint(self, unknown: Sequence[str]) -> str:
        """Return a hint at the options that the first unknown word may stand for."""
        word = unknown[0].partition("=")[0]
        names = [name for name in self._option_string_actions if name.startswith("--")]
        if not word.startswith("--"):
            return ""
        prefixed = [name for name in names if name.startswith(word)]
        matches = prefixed or difflib.get_close_matches(word, names, 1)
        return f" (did you mean {' or '.join(matches[:MAX_HINTS])}?)" if matches else ""


def access_code(text: str) -> str:
    """Parse a name to register under."""
    if not text.strip() or not is_unicode(text):
        raise argparse.ArgumentTypeError(f"a name in UTF-8 is needed, not {text!r}")
    return text


def version(text: str) -> str:
    """Parse the version of the Kernel's interface, which is part of its URLs."""
    if not text or not all(letter.isalnum() or letter in "._-" for letter in text):
        raise argparse.ArgumentTypeError(f"a version such as v1.0 is needed, not {text!r}")
    return text


def create_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the general options, which a custom executor's file may replace."""
    parser = Parser(
        prog=program,
        description=description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        conflict_handler="resolve",
    )
    add_kernel_options(parser.add_argument_group("options of the Kernel"))
    add_serving_options(parser.add_argument_group("options of the server"))
    add_api_options(parser.add_argument_group("options of the OpenAI-compatible API, /v1"))
    add_log_options(parser.add_argument_group("options of the log"))
    return parser


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return a copy of the list of a parser's options, for `replaced_defaults`."""
    return list(parser._actions)


def replaced_defaults(
    parser: argparse.ArgumentParser, former: list[argparse.Action]
) -> dict[str, Any]:
    """Return the defaults of the former options that others of the same name have replaced.

    A file written for Kuwa may define an option that only we have: then it gets its own, and we
    use our default. Raises argparse.ArgumentError for an option that Kuwa has, as Kuwa does.
    """
    kept = actions_of(parser)
    replaced = {action.dest: action.default for action in former if action not in kept}
    for name in replaced:
        if name in KUWA_OPTIONS:
            raise argparse.ArgumentError(None, f"conflicting option string: --{name}")
    return replaced


def add_kernel_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of the registration with a Kernel."""
    group.add_argument(
        "--access_code",
        type=access_code,
        nargs="+",
        metavar="NAME",
        help="name or names under which the Kernel knows this executor",
    )
    group.add_argument(
        "--version",
        type=version,
        default=INTERFACE_VERSION,
        help="version of the executor interface, part of the Kernel's URLs",
    )
    group.add_argument(
        "--kernel_url", type=address.web_address, default=KERNEL_URL, help="base URL of the Kernel"
    )
    group.add_argument("--ignore_kernel", action="store_true", help="do not register with a Kernel")
    group.add_argument(
        "--embedded_kernel",
        type=address.host_and_port,
        nargs="?",
        const=address.host_and_port(KERNEL_ADDRESS),
        metavar="HOST:PORT",
        help="start a small Kernel with a chat page in this process and register with it; "
        f"without an address it listens on {KERNEL_ADDRESS}",
    )
    add_executor_hosts(group)


def add_serving_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of the HTTP server and its slots."""
    group.add_argument(
        "--host",
        type=address.host_name,
        help="name or address stored in the Kernel; None: the local address that the Kernel sees",
    )
    group.add_argument(
        "--bind",
        type=address.host_name,
        metavar="ADDRESS",
        help="address to listen on; None: that of --host if it is this machine's, else all; needed "
        "if --host is a name that only the Kernel knows",
    )
    group.add_argument("--port", type=address.port_number, help="port; None: an unused one")
    group.add_argument(
        "--executor_path",
        type=address.chat_path,
        default="/chat",
        metavar="PATH",
        help="path of the chat endpoint; auto: one that nobody can guess",
    )
    group.add_argument(
        "--https",
        action="store_true",
        help="register with the https scheme, for a TLS proxy in front; see --tls_cert",
    )
    group.add_argument("--tls_cert", metavar="FILE", help="serve TLS with this certificate chain")
    group.add_argument("--tls_key", metavar="FILE", help="private key of --tls_cert")
    add_allowed_hosts(group)
    group.add_argument(
        "--abort_from",
        choices=ABORT_FROM,
        default=ABORT_FROM[0],
        help="who may stop a chat: any program that reaches the port, but no browser; or only the "
        "Kernel's host, this machine and the address that the chat came from",
    )
    group.add_argument(
        "--concurrent_req_limit",
        type=types.whole(1),
        default=1,
        metavar="N",
        help="chats that may run at once: the number of slots",
    )
    group.add_argument(
        "--waiting",
        type=types.whole(0),
        metavar="W",
        help="further chats that may wait for a slot; None: as many as slots; the Kernel is given "
        "an endpoint for each slot and each of these",
    )
    group.add_argument(
        "--waiting_timeout",
        type=types.seconds,
        default=240.0,
        metavar="SECONDS",
        help="how long a chat waits for a slot before it ends with a sentence; Kuwa's front end "
        "gives up after 300",
    )
    group.add_argument(
        "--wire",
        choices=WIRE_FORMATS,
        default=WIRE_FORMATS[0],
        help="how answers are sent: raw text as in Kuwa 0.3 or lines of JSON as in 0.4; auto: as "
        "the front end of each request wants it, which a proxy that strips X-Kuwa-* headers hides",
    )
    group.add_argument(
        "--drain_timeout",
        type=types.seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long running answers may go on after a signal to stop; a second one cuts them",
    )


def add_api_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of /v1, through which other clients than Kuwa's chat."""
    group.add_argument(
        "--api",
        choices=API,
        default=API[0],
        help="who may use /v1; loopback: programs of this machine, on: all clients with a token of "
        "--api_token or --api_token_file, off: no client",
    )
    group.add_argument(
        "--api_token",
        action="append",
        default=[],
        metavar="TOKEN",
        help="token that clients of /v1 must send, may be given several times; others on this "
        "machine see it in the list of processes, which they do not with --api_token_file",
    )
    group.add_argument(
        "--api_token_file", metavar="FILE", help="read such tokens from this file, one a line"
    )
    group.add_argument(
        "--cors_origin",
        type=address.web_origin,
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="web sites whose pages may use /v1, such as https://chat.example.org; *: all, which "
        "needs a token",
    )


def add_log_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of the log."""
    add_log_level(group)
    group.add_argument(
        "--log_content",
        action="store_true",
        help="let the log hold what people write and models answer",
    )


def add_allowed_hosts(group: argparse._ActionsContainer) -> None:
    """Add the host names that are allowed in a browser's Host and Origin."""
    group.add_argument(
        "--allowed_hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="further host names under which browsers may call, and web sites whose pages may",
    )


def add_executor_hosts(group: argparse._ActionsContainer) -> None:
    """Add the hosts whose executors the embedded Kernel takes."""
    group.add_argument(
        "--executor_hosts",
        type=address.host_or_network,
        nargs="+",
        default=[],
        metavar="HOST",
        help="other machines whose executors may join the embedded Kernel: names, addresses, or "
        "networks such as 192.168.1.0/24",
    )


def add_log_level(group: argparse._ActionsContainer) -> None:
    """Add the log level."""
    group.add_argument(
        "--log", type=str.upper, choices=log.LEVELS, default="INFO", help="least level to log"
    )
