"""The tools that compile a source, pinned, in a Python of their own that sees nothing else."""

from __future__ import annotations

import venv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kuwa_min.packing.wheels.fetch import fetch_wheels, pip_command
from kuwa_min.packing.wheels.lock import Lock, Pin, SourcePin
from kuwa_min.packing.wheels.resolve import WheelSources
from kuwa_min.packing.wheels.target import TargetPython

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep


class Build(NamedTuple):
    """What is compiled, where its sdist is looked for, and the wheels of its tools."""

    source: SourcePin
    sources: WheelSources
    tools: list[Path]


def fetch_tools(
    tools: Sequence[Pin], sources: WheelSources, wheelhouse: Path, log_step: LogStep
) -> dict[Path, str]:
    """Return the wheels of the pinned tools, downloaded if need be, and their hashes."""
    lock = Lock("", TargetPython.of_this_machine(), tuple(tools))
    return fetch_wheels(lock, for_tools(sources), wheelhouse, log_step)


def for_tools(sources: WheelSources) -> WheelSources:
    """Return the sources without the folders that are for the target alone."""
    links = (*map(str, sources.wheels), *sources.find_links)
    return sources._replace(wheels=(), find_links=links, torch_variant="")


def source_commands(build: Build, part: Path, command: str) -> tuple[list[list[str]], list[str]]:
    """Return what installs the tools in a new Python, part/python, and pip's command on the sdist.

    command: "wheel" or "download".
    """
    tools, sdist = part / "tools.txt", part / "sdist.txt"
    tools.write_text("".join(pin.text() for pin in build.source.tools), encoding="utf-8")
    sdist.write_text(build.source.sdist.text(), encoding="utf-8")
    venv.create(part / "python", symlinks=True)
    pip = pip_command(str(part / "python" / "bin" / "python"))
    hashed = ["--no-deps", "--require-hashes", "--no-cache-dir", "--verbose"]
    folders = {str(path.parent) for path in build.tools}
    links = [f"--find-links={folder}" for folder in sorted(folders)]
    # Installed, for pip, is also what lies beside pip.
    install = [*pip, "install", *hashed, "--ignore-installed", "--no-index", *links]
    install += ["-r", str(tools)]
    where = [f"--find-links={link}" for link in for_tools(build.sources).find_links]
    where += ["--no-index"] if build.sources.no_index else []
    options = ["--no-build-isolation", "--no-binary", build.source.sdist.name, "-r", str(sdist)]
    return [install] if build.tools else [], [*pip, command, *hashed, *where, *options]
