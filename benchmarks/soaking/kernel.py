"""A Kernel with faults: it restarts without its records, hangs, and answers with garbage."""

import random
import threading
from contextlib import suppress
from types import TracebackType

from tests.fakes.kuwa.kernel_03 import Kernel, Routes
from tests.fakes.kuwa.kernel_04 import Routes04

HEALTHY, AWAY, HANGS, GARBAGE = "healthy", "away", "hangs", "garbage"
FAULTS = (AWAY, HANGS, GARBAGE)
SHORTEST, LONGEST = 1.0, 6.0  # seconds of a fault
HEALTHY_FOR = (6.0, 30.0)  # seconds between two of them
NONSENSE = (
    b"\x00\xff\x80 nonsense\r\n\r\n",
    b"HTTP/1.1 abc\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    b"",
)


class FaultyRoutes(Routes04):
    """The Kernel's routes; those of workers suffer from faults."""

    server: "FaultyServer"

    def _route(self, routes: Routes) -> None:
        fault = self.server.fault if self.path.startswith("/v1.0/worker/") else HEALTHY
        if self.path == "/v1.0/worker/schedule" or fault in (HEALTHY, AWAY):
            super()._route(routes)
            return
        self.close_connection = True
        if fault == HANGS:
            self.server.is_healthy.wait(LONGEST)
            return
        with suppress(OSError):
            self.wfile.write(self.server.chance.choice(NONSENSE))


class FaultyServer(Kernel):
    """A Kernel on a port of its own choice, which knows its fault."""

    def __init__(self, port: int, chance: random.Random) -> None:
        super().__init__(FaultyRoutes, port)
        self.chance, self.fault = chance, HEALTHY
        self.is_healthy = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Be quiet about clients that hang up."""


class FaultyKernel:
    """Runs the Kernel, and changes its fault while `restless`."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._server = FaultyServer(0, self._chance)
        self.port, self.changes = self._server.server_port, 0
        self._thread = self._serve()
        self._faults: threading.Thread | None = None
        self._ends = threading.Event()

    def __enter__(self) -> "FaultyKernel":
        """Serve until the block ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the port."""
        self.end_faults()
        self._close()

    @property
    def url(self) -> str:
        """Return the address, without a final slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def rows(self) -> list[list[object]]:
        """Return all records."""
        return [row for rows in list(self._server.records.values()) for row in rows]

    def begin_faults(self) -> None:
        """Change the fault now and then, from now on."""
        self._ends.clear()
        self._faults = threading.Thread(target=self._change, daemon=True)
        self._faults.start()

    def end_faults(self) -> None:
        """Be well again, and stay so."""
        self._ends.set()
        if self._faults:
            self._faults.join()

    def _change(self) -> None:
        healthy_for = 1.0
        while not self._ends.wait(healthy_for):
            fault, length = self._chance.choice(FAULTS), self._chance.uniform(SHORTEST, LONGEST)
            self.changes += 1
            if fault == AWAY:
                self._close()
                self._ends.wait(length)
                self._server = FaultyServer(self.port, self._chance)
                self._thread = self._serve()
            else:
                self._server.fault = fault
                self._ends.wait(length)
                self._server.fault = HEALTHY
                self._server.is_healthy.set()
                self._server.is_healthy = threading.Event()
            healthy_for = self._chance.uniform(*HEALTHY_FOR)

    def _serve(self) -> threading.Thread:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        return thread

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
