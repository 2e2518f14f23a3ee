"""Read the key with which a service is asked, and say whose it is. No text of a key leaves here."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from kuwa_min.errors import UsageError

OPERATOR, PERSON, THIRD_PARTY, NOBODY = "operator", "person", "third party", "nobody"


class Key(NamedTuple):
    """A key and who gave it; its representation never shows it."""

    text: str
    owner: str  # OPERATOR, PERSON, THIRD_PARTY or NOBODY

    def __repr__(self) -> str:
        return f"Key({self.owner})"


NO_KEY = Key("", NOBODY)


def add_arguments(parser: argparse._ActionsContainer, variable: str) -> None:
    """Add where the operator's key comes from."""
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
        text = (find() or "").strip()
        if text and not is_possible(text):
            raise UsageError(f"{source} holds no key: a key is one word of ASCII")
        if text:
            return Key(text, OPERATOR)
    return NO_KEY


def _content(path: str | None) -> str:
    if not path:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"--api_key_file {path} cannot be read: {reason}") from None
    if not text:
        raise UsageError(f"--api_key_file {path} is empty")
    return text


def given(text: object, owner: str) -> Key:
    """Return the key of a chat's form, if there is one."""
    word = text.strip() if isinstance(text, str) else ""
    return Key(word, owner) if word else NO_KEY


def is_possible(text: str) -> bool:
    """Tell whether a text can stand in a request's head as a key."""
    return text.isascii() and text.isprintable() and " " not in text and len(text) < 4096
