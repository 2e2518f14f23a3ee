"""Run the commands of a long compilation into a log file, and make stubs to link with."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kuwa_min.errors import UsageError

if TYPE_CHECKING:
    from kuwa_min.progress import LogStep

STEPS = re.compile(rb"(?m)^\[(\d+)/(\d+)\]")
TAIL_BYTES = 32 << 10  # of the log, which hold a line of Ninja's: one has the whole command
PROGRESS_INTERVAL = 15.0  # seconds between two lines about the progress


def run(
    commands: Sequence[Sequence[str]],
    what: str,
    log: Path,
    environment: Mapping[str, str],
    log_step: LogStep,
) -> None:
    """Run commands, up to the first that fails, into a log file; raises UsageError.

    what: is compiled; environment: without its variables of Python.
    """
    with log.open("wb") as output:
        clean = _without_python(environment)
        if any(_run(command, output, clean, log, log_step) for command in commands):
            raise UsageError(
                f"{what} was not compiled: {_reason(log)}; the whole output is in {log}"
            )


def _without_python(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out what would let another Python's packages into the build."""
    return {name: value for name, value in environment.items() if not name.startswith("PYTHON")}


def _run(
    command: Sequence[str],
    output: IO[bytes],
    environment: Mapping[str, str],
    log: Path,
    log_step: LogStep,
) -> int:
    """Run a command into a log file, report progress, and return the exit code."""
    start = time.monotonic()
    with subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:
        while True:
            try:
                return process.wait(PROGRESS_INTERVAL)
            except subprocess.TimeoutExpired:
                log_step(f"compiling for {_duration(time.monotonic() - start)}{_progress(log)}")


def _progress(log: Path) -> str:
    """Return how many of its steps Ninja has done, by its last line; "" before the first."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        steps = STEPS.findall(file.read())
    return f", {steps[-1][0].decode()} of {steps[-1][1].decode()} steps" if steps else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s"


def _reason(log: Path) -> str:
    """Return the first line of the log with an error, else its last line."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    output = [line for line in lines if line]
    errors = [line for line in output if "error:" in line.lower()]
    return (errors or output[-1:] or ["it says nothing"])[0][:200]


def make_stub(
    library: Path, soname: str, functions: Iterable[str], environment: Mapping[str, str]
) -> None:
    """Compile a shared library to link with in place of a driver's; raises UsageError.

    It must have every function that is called: as-needed, the linker leaves a library of which no
    function is used out of DT_NEEDED. They return 999.
    """
    source = "".join(f"int {name}(void) {{ return 999; }}\n" for name in sorted({*functions}))
    compiler = shlex.split(environment.get("CC", "")) or ["cc"]
    options = ["-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{soname}", "-o", str(library)]
    try:
        done = subprocess.run([*compiler, *options], input=source, capture_output=True, text=True)
    except OSError as error:
        raise UsageError(
            f"no C compiler is here ({error}): install one (apt-get install gcc)"
        ) from None
    if done.returncode:
        raise UsageError(f"{shlex.join(compiler)} makes no library: {done.stderr.strip()[-200:]}")
