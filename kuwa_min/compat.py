"""Make `kuwa.executor` importable, so that files written for Kuwa's own executor run unchanged.

`kuwa` is a namespace package: kuwa.client and kuwa.rag are distributions of their own. So ours is a
folder on sys.path (`drop_in`) that adds one portion to it, not a package `kuwa`. Where kuwa-min is
installed, `kuwa.executor` is installed beside it from the same sources.
"""

from __future__ import annotations

import os.path
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import Distribution, DistributionFinder

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "drop_in")
DISTRIBUTION, KUWA_VERSION = "kuwa-executor", "0.4.0"  # whose interface ours is


def install() -> None:
    """Put our `kuwa.executor` on sys.path, before an installed one."""
    if FOLDER not in sys.path:
        sys.path.insert(0, FOLDER)


def provide_version() -> None:
    """Let importlib.metadata.version("kuwa-executor") work where no such distribution is."""
    if not any(isinstance(finder, _VersionFinder) for finder in sys.meta_path):
        sys.meta_path.append(_VersionFinder())


class _VersionFinder:
    """A finder of the distribution's metadata alone, the last on sys.meta_path."""

    def find_spec(self, *_: object) -> None:
        """Find no module."""

    def find_distributions(self, context: DistributionFinder.Context) -> Iterable[Distribution]:
        """Return the distribution if the context names it."""
        name = re.sub(r"[-_.]+", "-", context.name or "").lower()
        return [_distribution()] if name == DISTRIBUTION else []


def _distribution() -> Distribution:
    from importlib import metadata
    from pathlib import Path

    class Executor(metadata.Distribution):
        """A stand-in for Kuwa's own distribution."""

        def read_text(self, filename: str) -> str | None:
            """Return the text of METADATA, the only file."""
            if filename != "METADATA":
                return None
            return f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {KUWA_VERSION}\n"

        def locate_file(self, path: Any) -> Any:
            """Return where a file of the distribution would be."""
            return Path(FOLDER, path)

    return Executor()
