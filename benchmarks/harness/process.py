"""Start a server as a process of its own, wait until it answers, weigh it, end it by its pid."""

import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

HOST = "127.0.0.1"
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
POLL_SECONDS = 0.0005
START_SECONDS = 30.0
STOP_SECONDS = 10.0
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


class ServerFailedError(RuntimeError):
    """Say which server ended or never answered, and the end of what it printed."""


class Server:
    """A server process; as a `with` block it is healthy inside and gone afterwards."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        *,
        cwd: Path | None = None,
        home: Path | None = None,
    ) -> None:
        self.command = command
        self.port = port
        self.cwd = cwd
        self.home = home
        self.started = 0.0
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        """Start the process and wait for its health."""
        self.start()
        try:
            self.wait_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the process."""
        self.stop()

    def start(self) -> None:
        """Start the process, output to a file, and note the time."""
        environment = clean_environment(self.home)
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            self.command,
            cwd=self.cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def wait_healthy(self) -> float:
        """Knock until /health says 204; return the seconds since the start."""
        while not healthy(self.port):
            late = time.perf_counter() - self.started > START_SECONDS
            if late or self.process.poll() is not None:
                raise ServerFailedError(f"{' '.join(self.command)}\n{self.output()}")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - self.started

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the running process."""
        if self._process is None:
            raise ServerFailedError(f"not started: {' '.join(self.command)}")
        return self._process

    def output(self) -> str:
        """Return the end of what the server printed."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-2000:]

    def stop(self) -> None:
        """Ask the process to end, and insist after a while."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self._log.close()

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()

    def rss_bytes(self) -> int:
        """Return the resident memory of the process and its descendants."""
        return rss_bytes(self.process.pid)

    def cpu_seconds(self) -> float:
        """Return the processor time that the process and its descendants have used."""
        return cpu_seconds(self.process.pid)


def clean_environment(home: Path | None = None) -> dict[str, str]:
    """Return the environment without PYTHON* settings, which change what a start costs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept if home is None else {**kept, "HOME": str(home)}


def free_port() -> int:
    """Return an unused port below the ephemeral range, where a knock cannot meet itself."""
    for _ in range(1000):
        port = random.randint(20_000, 30_000)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise ServerFailedError("no free port between 20000 and 30000")


def healthy(port: int) -> bool:
    """Ask /health once; say whether it answered 204."""
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(HEALTH)
            return connection.recv(4096).startswith(b"HTTP/1.1 204")
    except OSError:
        return False


@contextmanager
def scratch() -> Iterator[Path]:
    """Lend an empty folder."""
    with tempfile.TemporaryDirectory(prefix="kuwa-bench-") as name:
        yield Path(name)


def rss_bytes(root: int) -> int:
    """Return the resident memory of a process and its descendants."""
    return sum(_rss_bytes(pid) for pid in _tree(root))


def cpu_seconds(root: int) -> float:
    """Return the processor time that a process and its descendants have used."""
    return sum(_cpu_seconds(pid) for pid in _tree(root))


def entries(root: int, kind: str) -> int:
    """Count the descriptors ("fd") or threads ("task") of a process and its descendants."""
    return sum(len(list(Path(f"/proc/{pid}/{kind}").iterdir())) for pid in _tree(root))


def _tree(root: int) -> list[int]:
    parents = _parents()
    found = [root]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


def _parents() -> Mapping[int, int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    return parents


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def _cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS
