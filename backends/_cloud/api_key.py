"""Read the API key that a request is sent with, and remember whose it is. No key is ever logged."""

from __future__ import annotations

import argparse
import os
from typing import NamedTuple

from kuwa_min.errors import UsageError
from kuwa_min.options.text_file import InvalidTextFile, read_text

# How the log names the owner of a key.
OPERATOR, USER, THIRD_PARTY, NO_OWNER = "operator", "person", "third party", "nobody"
LONGEST_KEY = 4095  # characters


class Key(NamedTuple):
    """A key and its owner; its representation hides the key."""

    text: str
    owner: str  # OPERATOR, USER, THIRD_PARTY or NO_OWNER

    def __repr__(self) -> str:
        return f"Key({self.owner})"


NO_KEY = Key("", NO_OWNER)


def add_arguments(parser: argparse._ActionsContainer, variable: str) -> None:
    """Add --api_key and --api_key_file; variable: of the environment, which is read after them."""
    parser.add_argument(
        "--api_key",
        metavar="KEY",
        help="key of the service; others on this machine see it in the list of processes, "
        f"which they do not with --api_key_file or the environment's {variable}",
    )
    parser.add_argument("--api_key_file", metavar="FILE", help="read the key from this file")


def read(args: argparse.Namespace, variable: str) -> Key:
    """Return the operator's key; raises UsageError for a file or a text that cannot be one."""
    sources = (
        ("--api_key", lambda: args.api_key),
        (f"--api_key_file {args.api_key_file}", lambda: _content(args.api_key_file)),
        (f"the environment's {variable}", lambda: os.environ.get(variable)),
    )
    for source, find in sources:
        text = (find() or "").strip().removeprefix("\ufeff")  # of a file's content as a variable
        if text and not is_valid(text):
            raise UsageError(f"{source} holds no key: a key is one word of ASCII")
        if text:
            return Key(text, OPERATOR)
    return NO_KEY


def _content(path: str | None) -> str:
    if not path:
        return ""
    try:
        text = read_text(path).strip()
    except InvalidTextFile as error:
        raise UsageError(f"--api_key_file {path} {error}") from None
    if not text:
        raise UsageError(f"--api_key_file {path} is empty")
    return text


def from_form(field: object, owner: str) -> Key:
    """Return the key in a field of a chat's form; NO_KEY if the field is empty or absent."""
    text = field.strip() if isinstance(field, str) else ""
    return Key(text, owner) if text else NO_KEY


def is_valid(text: str) -> bool:
    """Tell whether a text can stand in a header as a key."""
    return text.isascii() and text.isprintable() and " " not in text and len(text) <= LONGEST_KEY
