"""Time from exec until /health says 204.

"First" starts a fresh copy in a new place with an empty HOME. The operating system's page cache
stays warm in all cases: dropping it takes root.
"""

import compileall
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.contestants import FASTAPI, PYZ, ROOT, executor_options, fastapi, ours
from harness.process import Server, clean_environment, free_port, scratch
from harness.question import ask
from harness.rounds import interleaved, medians
from harness.table import Row, Table, at_most, beside

WARM, FIRST = "kuwa-debug.pyz, warm", "kuwa-debug.pyz, first"
FOLDER, FOLDER_FIRST = "package folder, .pyc", "package folder, first"
BARE, PASS = "bare-socket health", "python -c pass"
BARE_HEALTH = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
"""


def measure(quick: bool) -> Table:
    """Time starts in interleaved rounds."""
    count = 5 if quick else 21
    with scratch() as place:
        contestants = prepared(place)
        interleaved(contestants, 1)
        found = medians(interleaved(contestants, count))
    milliseconds = {name: 1000 * seconds for name, seconds in found.items()}
    title = f"start: exec to /health 204, ms, median of {count}"
    size = f"{PYZ.name}: {PYZ.stat().st_size:,} bytes"
    return Table(title, rows(milliseconds), ["page cache warm in all cases", size])


def rows(found: dict[str, float]) -> list[Row]:
    """Compare the medians."""
    return [
        at_most(WARM, found[WARM], FOLDER, found[FOLDER], 1.2),
        at_most(FIRST, found[FIRST], FOLDER_FIRST, found[FOLDER_FIRST], 1.2),
        at_most(WARM, found[WARM], FASTAPI, found[FASTAPI], 0.25),
        beside(WARM, found[WARM], BARE, found[BARE]),
        beside(WARM, found[WARM], PASS, found[PASS]),
    ]


def prepared(place: Path) -> dict[str, Callable[[], float]]:
    """Set the files up and return every contestant."""
    folder = package_folder(place / "package")
    home = place / "home"
    home.mkdir()
    return {
        WARM: partial(start_warm, home),
        FIRST: partial(start_first, place),
        FOLDER: partial(start_folder, folder, home),
        FOLDER_FIRST: partial(start_folder_first, folder, place),
        FASTAPI: partial(start_fastapi, home),
        BARE: partial(start_bare, home),
        PASS: interpreter_only,
    }


def package_folder(place: Path) -> Path:
    """Copy the sources to a folder and compile them there."""
    for name in ("kuwa_min", "backends"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, place / name, ignore=ignored)
    compileall.compile_dir(place, quiet=1)
    return place


def start_warm(home: Path) -> float:
    """Start the built file."""
    port = free_port()
    return until_healthy(Server(ours(port), port, home=home))


def start_first(place: Path) -> float:
    """Start a copy of the built file that never ran, with an empty HOME."""
    port = free_port()
    fresh = Path(tempfile.mkdtemp(dir=place))
    copy = shutil.copy(PYZ, fresh)
    home = Path(tempfile.mkdtemp(dir=place))
    command = [sys.executable, str(copy), *executor_options(port)]
    return until_healthy(Server(command, port, cwd=fresh, home=home))


def start_folder(folder: Path, home: Path) -> float:
    """Start the same package from a folder that holds its .pyc files."""
    port = free_port()
    command = [sys.executable, "-m", "kuwa_min", *executor_options(port)]
    return until_healthy(Server(command, port, cwd=folder, home=home))


def start_folder_first(folder: Path, place: Path) -> float:
    """Start a copy of the folder, .pyc files included, that never ran."""
    fresh = Path(tempfile.mkdtemp(dir=place)) / "package"
    shutil.copytree(folder, fresh)
    return start_folder(fresh, Path(tempfile.mkdtemp(dir=place)))


def start_fastapi(home: Path) -> float:
    """Start the FastAPI server."""
    port = free_port()
    return until_healthy(Server(fastapi(port), port, home=home))


def start_bare(home: Path) -> float:
    """Start the smallest server that knows its health."""
    port = free_port()
    return until_healthy(Server([sys.executable, "-c", BARE_HEALTH, str(port)], port, home=home))


def interpreter_only() -> float:
    """Start and end the bare interpreter."""
    environment = clean_environment()
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], env=environment, check=True)
    return time.perf_counter() - started


def until_healthy(server: Server) -> float:
    """Start a server, return the seconds until it is healthy, and end it."""
    server.start()
    try:
        return server.wait_healthy()
    finally:
        server.kill()
        server.stop()


if __name__ == "__main__":
    ask(measure, __doc__)
