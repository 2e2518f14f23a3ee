"""The options of `chat` and `ask`: which server, which access code, which token."""

from __future__ import annotations

import argparse
import os
from urllib.parse import urlsplit

from kuwa_min.errors import UsageError
from kuwa_min.log import redaction
from kuwa_min.options import address, general

from .answer import ServerError
from .clients import Client, KernelClient, OpenAIClient

TOKEN_VARIABLE = "KUWA_MIN_API_TOKEN"


def create_parser(program: str, description: str, epilog: str) -> general.Parser:
    """Return a parser with the options that both have."""
    parser = general.Parser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    server = parser.add_mutually_exclusive_group()
    server.add_argument(
        "--kernel_url",
        type=address.web_address,
        default=general.KERNEL_URL,
        metavar="URL",
        help=f"ask a Kernel (default: {general.KERNEL_URL})",
    )
    server.add_argument(
        "--base_url",
        type=address.web_address,
        metavar="URL",
        help="ask an executor's /v1, or any OpenAI-compatible server: http://localhost:8080/v1",
    )
    parser.add_argument(
        "--access_code",
        type=general.access_code,
        metavar="NAME",
        help="executor or model to ask (default: the first that the server lists)",
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="system prompt")
    parser.add_argument(
        "--api_token_file",
        metavar="FILE",
        help="token for --base_url: the first one in a file; without it, that of the "
        f"environment's {TOKEN_VARIABLE}",
    )
    parser.add_argument(
        "--version",
        type=general.version,
        default=general.INTERFACE_VERSION,
        help="version of the Kernel's interface, part of its URLs (default: %(default)s)",
    )
    return parser


def connect(args: argparse.Namespace) -> Client:
    """Return the client that the options ask for; raises UsageError."""
    if not args.base_url:
        if args.api_token_file:
            raise UsageError("--api_token_file is for --base_url: a Kernel takes no token")
        return KernelClient(args.kernel_url, args.version)
    base_url = args.base_url
    if not urlsplit(base_url).path.strip("/"):
        base_url = f"{base_url.rstrip('/')}/v1"
    return OpenAIClient(base_url, _token(args.api_token_file))


def _token(path: str | None) -> str:
    from kuwa_min.serving.openai_api.access import is_token, read_tokens

    if path:
        return read_tokens([], path)[0]
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    redaction.hide(token)
    if token and not is_token(token):
        raise UsageError(f"the environment's {TOKEN_VARIABLE} holds no token: one word of ASCII")
    return token


def choose_name(client: Client, wanted: str | None) -> str:
    """Return the access code to ask; raises ServerError if there is none."""
    if wanted:
        return wanted
    names = client.names()
    if not names:
        raise ServerError(
            "no executor is registered there yet; --access_code names one to wait for"
        )
    return names[0]
