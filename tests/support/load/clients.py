"""Run several clients at once on a machine without internet, for the load scenarios.

Those run in a namespace of their own (machines.py), each with the scenario of its backend.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.load.single_chat import is_offline, raise_loopback
from tests.support.programs import START_TIMEOUT, Program, call, fetch, said, table, until

PORT = 9001  # of the executor: nothing else runs on this machine
ONLY_CLIENT = 99  # the history of a client that chats alone


class Client(threading.Thread):
    """A user's front end: chats through a Kernel and reads piece by piece."""

    def __init__(
        self, kernel: str, name: str, number: int, *messages: str, modelfile: str = "[]"
    ) -> None:
        super().__init__(daemon=True)
        self.ids = {"name": name, "history_id": str(number), "user_id": str(number)}
        self._kernel, self._form = kernel, {**self.ids, **said(*messages, modelfile=modelfile)}
        self._read = b""
        self._leaves = threading.Event()

    def run(self) -> None:
        """Reserve a place, ask, and read to the end, or until it is time to leave."""
        until(lambda: fetch(f"{self._kernel}/v1.0/worker/schedule", self.ids)[1] == "READY")
        with call(f"{self._kernel}/v1.0/chat/completions", self._form) as response:
            while piece := response.read1(1 << 16):
                self._read += piece
                if self._leaves.is_set():
                    return

    @property
    def length(self) -> int:
        """Return how many bytes were read so far."""
        return len(self._read)

    @property
    def text(self) -> str:
        """Return what was read, without the newline that `wire` sends a room behind a last `<`."""
        text = self._read.decode()
        return text[:-1] if text.endswith("<\n") else text

    def abort(self) -> tuple[int, str]:
        """Abort through the Kernel; return status code and body."""
        ids = {"history_id": f"[{self.ids['history_id']}]", "user_id": self.ids["user_id"]}
        return fetch(f"{self._kernel}/v1.0/chat/abort", ids)

    def leave(self) -> None:
        """Close the connection at the next piece."""
        self._leaves.set()


class Scenario:
    """A backend of a file, and a machine without internet to start it on."""

    def __init__(self, file: Path, backend: str) -> None:
        raise_loopback()
        assert is_offline()
        sys.path.append(str(file / "site-packages"))  # of the core, for the Kernel's table
        self._file, self._backend = file, backend

    @contextmanager
    def running(self, seen: dict[str, Any], *options: str) -> Iterator[Program]:
        """Start an executor with a Kernel of its own; end it with SIGTERM and see how it ends."""
        words = (self._backend, *options, "--embedded_kernel", "127.0.0.1:0")
        words += ("--host", "127.0.0.1", "--port", str(PORT))
        with Program(*words, command=(sys.executable, str(self._file))) as program:
            seen["loading"] = watch_loading()
            program.wait_for(f"registered as {self._backend}", START_TIMEOUT)
            yield program
            program.process.terminate()
            seen["code"] = program.end()
            seen["log"] = program.log

    def client(
        self, program: Program, number: int, *messages: str, modelfile: str = "[]"
    ) -> Client:
        """Return a client with its messages, not yet started."""
        return Client(program.kernel_url, self._backend, number, *messages, modelfile=modelfile)

    def ask(self, program: Program, *messages: str, modelfile: str = "[]") -> str:
        """Chat alone, and return the answer."""
        client = self.client(program, ONLY_CLIENT, *messages, modelfile=modelfile)
        client.run()
        return client.text

    def looks(self, program: Program) -> dict[str, Any]:
        """Return what the executor and its Kernel say of themselves."""
        return {
            "status": status(),
            "health": fetch(f"http://127.0.0.1:{PORT}/health")[0],
            "states": [record[1] for record in table(program.kernel_url)[self._backend]],
        }

    def refusal(self, library: str, *words: str) -> dict[str, Any]:
        """Return code and words of a start that is refused, and whether it imported a library."""
        command = [sys.executable, "-X", "importtime", str(self._file), self._backend]
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        lines = done.stderr.splitlines()
        imports = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
        told = [line for line in lines if not line.startswith("import time:")]
        return {"code": done.returncode, "said": told, "imported": library in imports}


class ConcurrentClients:
    """Clients of one executor: one aborts, one disconnects, the others read to the end."""

    def __init__(
        self,
        scenario: Scenario,
        program: Program,
        *,
        aborts: Client,
        leaves: Client,
        stay: list[Client],
    ) -> None:
        self._scenario, self._program = scenario, program
        self.aborts, self.leaves, self.stay = aborts, leaves, stay

    def begin(self, *clients: Client) -> None:
        """Start clients; wait until each has received text."""
        for client in clients:
            client.start()
        until(lambda: all(client.length for client in clients))

    def read_on(self, count: int, *clients: Client) -> None:
        """Wait until each client has read `count` more bytes."""
        wanted = [client.length + count for client in clients]
        pairs = list(zip(clients, wanted, strict=True))
        until(lambda: all(client.length >= length for client, length in pairs))

    def abort_and_leave(self) -> dict[str, Any]:
        """Abort one and disconnect one while all generate; return observations and texts."""
        everyone = [self.aborts, self.leaves, *self.stay]
        seen: dict[str, Any] = {"running": [client.is_alive() for client in everyone]}
        seen["during"] = self._scenario.looks(self._program)
        seen["abort"] = self.aborts.abort()
        self.leaves.leave()
        for client in everyone:
            client.join(START_TIMEOUT)
        seen["stayed"] = [client.text for client in self.stay]
        seen["left"] = [client.text for client in (self.aborts, self.leaves)]
        until(lambda: status()["busy_slots"] == 0)
        seen["afterwards"] = self._scenario.looks(self._program)
        return seen


def status() -> dict[str, Any]:
    """Return what the executor says of itself."""
    found: dict[str, Any] = json.loads(fetch(f"http://127.0.0.1:{PORT}/status")[1])
    return found


def watch_loading() -> list[dict[str, Any]]:
    """Return what it says of itself while it loads, until it has."""
    found: list[dict[str, Any]] = []

    def is_over() -> bool:
        with suppress(ConnectionRefusedError):  # it does not listen yet, or has failed
            found.append(status())
        return bool(found) and found[-1]["state"] != "loading"

    until(is_over, START_TIMEOUT)
    return found[:-1]


def metrics() -> dict[str, float]:
    """Return the numbers that have no label but the executor's name."""
    lines = fetch(f"http://127.0.0.1:{PORT}/metrics")[1].splitlines()
    pairs = (line.removeprefix("executor_framework_").split("{") for line in lines if "{" in line)
    return {name: float(rest.split()[-1]) for name, rest in pairs if "," not in rest}


def command(name: str, text: str) -> str:
    """Return a Modelfile of a single command."""
    return json.dumps([{"name": name, "args": text}])
