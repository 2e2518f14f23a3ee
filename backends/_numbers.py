"""Read numbers of the command line that a library may not be given unseen."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return what reads a whole number of at least `least`, and of at most `most`."""
    wanted = f"of at least {least}" if most is None else f"from {least} to {most}"

    def convert(text: str) -> int:
        if not (text.isascii() and text.removeprefix("-").isdigit()) or not (
            least <= int(text) <= (int(text) if most is None else most)
        ):
            raise argparse.ArgumentTypeError(f"a whole number {wanted} is needed, not {text!r}")
        return int(text)

    return convert
