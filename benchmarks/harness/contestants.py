"""Say how ours, the floor and FastAPI are started; all speak the same routes."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from harness.process import HOST

HERE = Path(__file__).parents[1]  # run as a program with a module's name: see __main__
ROOT = HERE.parent
PYZ = ROOT / "dist" / "kuwa-debug.pyz"
OURS = "kuwa-debug.pyz"
FASTAPI = "FastAPI (uvloop, httptools)"
FLOOR = "bare-socket floor"


class Command(Protocol):
    """Make the command line of a server that listens on a port, a piece every `delay` seconds."""

    def __call__(self, port: int, *, delay: float = 0.02) -> list[str]:
        """Return the command line."""


def executor_options(port: int, *, delay: float = 0.02, slots: int = 1) -> list[str]:
    """Return the options of a debug executor without a Kernel."""
    return [
        *("debug", "--ignore_kernel", "--host", HOST, "--port", str(port)),
        *("--delay", str(delay), "--concurrent_req_limit", str(slots)),
    ]


def ours(port: int, *, delay: float = 0.02, slots: int = 1) -> list[str]:
    """Return the command of the built executor."""
    if not PYZ.exists():
        sys.exit(f"{PYZ} is missing: run `python build.py debug` first")
    return [sys.executable, str(PYZ), *executor_options(port, delay=delay, slots=slots)]


def floor(port: int, *options: str, delay: float = 0.02) -> list[str]:
    """Return the command of the bare-socket server; its own options are as on its command line."""
    command = [sys.executable, str(HERE), "core.floor_server", "--port", str(port)]
    return [*command, "--delay", str(delay), *options]


def fastapi(port: int, *options: str, delay: float = 0.02) -> list[str]:
    """Return the command of the FastAPI server; its own options are as on its command line."""
    if not (find_spec("fastapi") and find_spec("uvloop") and find_spec("httptools")):
        sys.exit("FastAPI is missing: run `pip install -r benchmarks/requirements.txt` first")
    command = [sys.executable, str(HERE), "core.fastapi_server", "--port", str(port)]
    return [*command, "--delay", str(delay), *options]


def slot_path(slot: int) -> str:
    """Return the path of a slot: /chat, /chat/1, /chat/2 ..."""
    return f"/chat/{slot}" if slot else "/chat"
