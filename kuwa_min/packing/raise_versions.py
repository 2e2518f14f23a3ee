"""Raise the versions of the constraints file: resolve the newest, run the tests, keep what passed.

`make raise-versions` runs it: python -m kuwa_min.packing.raise_versions make test
"""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from kuwa_min.errors import KuwaError
from kuwa_min.registry import backend_infos

from .libraries.llama_cpp import LLAMA
from .llama_cpp.llama_wheel import build_llama_wheel, pin_source
from .wheels.constraints import FILE
from .wheels.lock import Pin
from .wheels.resolve import WheelSources, resolve
from .wheels.target import FIRST_MINOR, TargetPython

TITLE = """\
# The versions that all tests ran with, and those that torch for CUDA adds. Builds and `make test`
# take them where they suit; build.py --newest does not. `make raise-versions` writes this file.
"""
PROJECT, WHEELHOUSE = Path("pyproject.toml"), Path("build/wheels")
EXTRAS = ("build", "test", "heavy", "cloud")  # are installed beside the libraries for the tests


def main(command: Sequence[str]) -> int:
    """Write the newest versions, run the command, and put the old ones back if it fails."""
    before = FILE.read_bytes()
    passed = False
    try:
        FILE.write_text(constraints_text(), encoding="utf-8")
        passed = not subprocess.run(command).returncode
    except KuwaError as error:
        _log_step(f"error: {error}")
    except KeyboardInterrupt:
        _log_step("interrupted")
    finally:
        if not passed:
            FILE.write_bytes(before)
    _log_step(f"{FILE.name}: {'raised' if passed else 'the old versions are back'}")
    return 0 if passed else 1


def constraints_text(preferred: tuple[str, ...] = ()) -> str:
    """Resolve what all backends require, in preferred versions or the newest, for this machine.

    llama-cpp-python is compiled for that. Raises UsageError.
    """
    here, sources = TargetPython.of_this_machine(), WheelSources(preferred=preferred)
    required = {one for info in backend_infos().values() for one in info.requires.values()}
    llama = next(one for one in required if one.startswith(LLAMA))
    compiled = pin_source(llama, sources, WHEELHOUSE, _log_step)
    wheel = build_llama_wheel(compiled, sources, WHEELHOUSE, _log_step)
    sources = sources._replace(wheels=(wheel.parent,))
    _log_step(f"resolving {', '.join(sorted(required))}")
    beside = resolve("every-backend", sorted({*required, *_installed_beside()}), here, sources)
    sources = sources._replace(preferred=_lines(beside.pins))
    pins = resolve("every-backend", sorted(required), here, sources).pins
    least = _least_minors(sorted(required), pins, here, sources)
    tools = [pin for pin in compiled.tools if pin.name not in {one.name for one in pins}]
    today = datetime.datetime.now(datetime.timezone.utc).date()
    lines = sorted([_line(pin, least.get(pin.name)) for pin in pins] + [*_lines(tools)])
    raised = f"# raised: {today}, with Python {here.python} on {here.machine}\n"
    return TITLE + raised + "".join(f"{line}\n" for line in lines)


def _installed_beside() -> list[str]:
    """Return the requirements of the tests, which share an environment with the libraries."""
    import tomllib

    extras = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
    found = [str(one) for name in EXTRAS for one in extras[name]]
    return [one for one in found if not one.startswith("kuwa-min")]


def _least_minors(
    required: Sequence[str], pins: Iterable[Pin], here: TargetPython, sources: WheelSources
) -> dict[str, int]:
    """Return the first minor version of Python 3 that has each version, if it is no old one."""
    sources = sources._replace(preferred=_lines(pins))
    least = {}
    for minor in range(FIRST_MINOR, here.minor):
        older = resolve("every-backend", required, here._replace(python=f"3.{minor}"), sources)
        found = {pin.name: pin.version for pin in older.pins}
        for pin in pins:
            if found.get(pin.name, pin.version) != pin.version:
                least[pin.name] = minor + 1
    return least


def _lines(pins: Iterable[Pin]) -> tuple[str, ...]:
    return tuple(_line(pin, None) for pin in pins)


def _line(pin: Pin, least_minor: int | None) -> str:
    public = re.sub(r"\+.*", "", pin.version)  # torch 2.13.0+cpu
    marker = f' ; python_version >= "3.{least_minor}"' if least_minor else ""
    return f"{pin.name}=={public}{marker}"


def _log_step(text: str) -> None:
    sys.stderr.write(f"raise_versions: {text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
