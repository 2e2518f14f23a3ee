"""A Kernel with moods: it restarts without its records, hangs, and answers with garbage."""

import random
import threading
from contextlib import suppress
from types import TracebackType

from tests.fakes.kuwa.kernel_03 import Kernel, Routes
from tests.fakes.kuwa.kernel_04 import Routes04

WELL, AWAY, HANGS, GARBAGE = "well", "away", "hangs", "garbage"
MOODS = (AWAY, HANGS, GARBAGE)
SHORTEST, LONGEST = 1.0, 6.0  # seconds of a mood
WELL_FOR = (6.0, 30.0)  # seconds between two of them
NONSENSE = (
    b"\x00\xff\x80 nonsense\r\n\r\n",
    b"HTTP/1.1 abc\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    b"",
)


class MoodyRoutes(Routes04):
    """The Kernel's routes; those of workers suffer from moods."""

    server: "MoodyServer"

    def _route(self, routes: Routes) -> None:
        mood = self.server.mood if self.path.startswith("/v1.0/worker/") else WELL
        if self.path == "/v1.0/worker/schedule" or mood in (WELL, AWAY):
            super()._route(routes)
            return
        self.close_connection = True
        if mood == HANGS:
            self.server.is_well.wait(LONGEST)
            return
        with suppress(OSError):
            self.wfile.write(self.server.chance.choice(NONSENSE))


class MoodyServer(Kernel):
    """A Kernel on a port of its own choice, which knows its mood."""

    def __init__(self, port: int, chance: random.Random) -> None:
        super().__init__(MoodyRoutes, port)
        self.chance, self.mood = chance, WELL
        self.is_well = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Be quiet about clients that hang up."""


class MoodyKernel:
    """Runs the Kernel, and changes its mood while `restless`."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._server = MoodyServer(0, self._chance)
        self.port, self.changes = self._server.server_port, 0
        self._thread = self._serve()
        self._moods: threading.Thread | None = None
        self._ends = threading.Event()

    def __enter__(self) -> "MoodyKernel":
        """Serve until the block ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the port."""
        self.calm()
        self._close()

    @property
    def url(self) -> str:
        """Return the address, without a final slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def rows(self) -> list[list[object]]:
        """Return all records."""
        return [row for rows in list(self._server.records.values()) for row in rows]

    def begin_moods(self) -> None:
        """Change the mood now and then, from now on."""
        self._ends.clear()
        self._moods = threading.Thread(target=self._change, daemon=True)
        self._moods.start()

    def calm(self) -> None:
        """Be well again, and stay so."""
        self._ends.set()
        if self._moods:
            self._moods.join()

    def _change(self) -> None:
        well_for = 1.0
        while not self._ends.wait(well_for):
            mood, length = self._chance.choice(MOODS), self._chance.uniform(SHORTEST, LONGEST)
            self.changes += 1
            if mood == AWAY:
                self._close()
                self._ends.wait(length)
                self._server = MoodyServer(self.port, self._chance)
                self._thread = self._serve()
            else:
                self._server.mood = mood
                self._ends.wait(length)
                self._server.mood = WELL
                self._server.is_well.set()
                self._server.is_well = threading.Event()
            well_for = self._chance.uniform(*WELL_FOR)

    def _serve(self) -> threading.Thread:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        return thread

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
