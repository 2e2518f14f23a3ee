"""A parser of command lines whose errors repeat no key."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from . import one_line
from .redaction import clean_command_line


class SafeParser(argparse.ArgumentParser):
    """Write errors in one line, without the secrets of the command line that they are about."""

    words: Sequence[str] = ()  # of the command line that is parsed

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse options; return their values and the words that are not understood."""
        self.words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self.words, namespace)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End the process, perhaps with an error."""
        line = one_line(clean_command_line(message.rstrip("\n"), self.words)) if message else ""
        super().exit(status, line and f"{line}\n")
