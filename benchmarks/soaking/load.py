"""What clients do to an executor during a soak: chats, hang-ups, aborts, garbage, floods, polls.

Each visitor is a thread with a seed of its own, which does one thing after another. What an
executor must never do is a *problem*: a wrong answer, a route that does not answer, a chat without
an end. Refusals and connections that the executor closes are counted, no more.
"""

import http.client
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from urllib.parse import urlencode

from soaking.kernel import FaultyKernel
from soaking.scripted_executor import answer

HOST = "127.0.0.1"
SILENCE = 60.0  # seconds without a byte after which a chat counts as stuck
ABORT_SECONDS = 10.0
FLOOD, HELD = 100, 0.3  # connections at once, and for how many seconds
BALLAST = 1_000_000  # characters of the largest form: 9 MB in percent-encoded Chinese are refused
MOST_PROBLEMS = 20
POLLS = {"/health": 204, "/metrics": 200, "/status": 200}
JUNK = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"GET\r\n\r\n",
    b"POST /chat HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\ninput=%ff",
    b"\x00" * 1000,
)
HALVES = (
    b"",
    b"GET /hea",
    b"POST /chat HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    b"POST /chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\ninput=",
)


class Load:
    """The visitors of one executor, and what they saw.

    name: the executor's access code. knows_answers: whether it is the scripted one, whose answers
    can be compared.
    """

    def __init__(self, port: int, kernel: FaultyKernel, name: str, *, knows_answers: bool) -> None:
        self.port, self.kernel, self.name = port, kernel, name
        self.knows_answers = knows_answers
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.ends = threading.Event()

    def run(self, visitors: int, seconds: float, seed: int) -> None:
        """Run `visitors` clients for `seconds`, and wait until the last one has ended."""
        self.ends.clear()
        threads = [Visitor(self, seed * 1000 + number) for number in range(visitors)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.ends.set()
        for thread in threads:
            thread.join(2 * SILENCE)
            if thread.is_alive():
                self.report(f"{thread.doing} has no end")

    def report(self, problem: str) -> None:
        """Note what must not be."""
        self.counts["problems"] += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"{time.strftime('%X')} {problem}")


class Visitor(threading.Thread):
    """One client after another; its ids are its own."""

    def __init__(self, load: Load, seed: int) -> None:
        super().__init__(daemon=True)
        self.load, self.chance, self.doing = load, random.Random(seed), ""
        self.ids = {"name": load.name, "history_id": str(seed), "user_id": str(seed % 5)}

    def run(self) -> None:
        """Do one thing after another until the load ends."""
        what: dict[Callable[[], None], int] = {
            self.chat: 30, self.abort: 6, self.hang_up: 12, self.read_slowly: 4, self.garbage: 8,
            self.half: 4, self.flood: 1, self.poll: 12, self.large_form: 2,
        }  # fmt: skip
        actions, weights = list(what), list(what.values())
        while not self.load.ends.wait(self.chance.uniform(0, 0.1)):
            action = self.chance.choices(actions, weights)[0]
            self.doing = action.__name__
            try:
                action()
                self.load.counts[self.doing] += 1
            except TimeoutError:
                self.load.report(f"{self.doing}: nothing came for {SILENCE:.0f} s")
            except (OSError, http.client.HTTPException):  # the Kernel restarts, or a limit holds
                self.load.counts[f"{self.doing} cut off"] += 1

    # -- chats through the Kernel

    def chat(self) -> None:
        """Have one chat to its end."""
        kind = self.chance.choices(["short", "long", "silent", "blocking"], [6, 3, 2, 1])[0]
        number = {"short": 40, "long": 200, "silent": 2, "blocking": 5}[kind]
        self.whole_chat(
            kind, self.chance.randint(1, number), "說中文 " * self.chance.randint(0, 50)
        )

    def large_form(self) -> None:
        """Have one chat with a form of up to some megabytes."""
        self.whole_chat("short", 3, "字" * self.chance.randint(1, BALLAST // 2))

    def whole_chat(self, kind: str, number: int, ballast: str) -> None:
        """Chat and compare the answer."""
        response = self.ask(f"{kind} {number} {ballast}")
        if response is None:
            return
        with response:
            text = response.read().decode()
        if text == answer(kind, number) or not self.load.knows_answers:
            self.load.counts["answers"] += 1
        elif len(text) < 300 and (not text or text.startswith(("[", "{"))):
            self.load.counts["refused"] += 1
        else:
            self.load.report(f"{kind} {number}: {len(text)} characters, {text[-80:]!r}")

    def abort(self) -> None:
        """Abort a chat by the Kernel's ids; it must end at once, if the Kernel still knows it."""
        kind, faults = self.chance.choice(["long", "silent"]), self.load.kernel.changes
        response = self.ask(f"{kind} {3000 if kind == 'long' else 30}")
        if response is None:
            return
        with response:
            if kind == "long" and self.chance.random() < 0.5:
                response.read1(100)
            ids = {"history_id": f"[{self.ids['history_id']}]", "user_id": self.ids["user_id"]}
            started = time.monotonic()
            self.to_kernel("/v1.0/chat/abort", ids).read()
            while response.read1(1 << 16):
                pass
        if time.monotonic() - started > ABORT_SECONDS and faults == self.load.kernel.changes:
            self.load.report(f"{kind}: it went on after its abort")

    def read_slowly(self) -> None:
        """Read a long answer a little at a time, and leave."""
        response = self.ask("short 20000")
        if response is None:
            return
        with response:
            for _ in range(self.chance.randint(1, 30)):
                if not response.read1(512):
                    return
                time.sleep(0.1)

    def hang_up(self) -> None:
        """Leave at any stage, now and then with a reset."""
        stage = self.chance.choice(["connect", "head", "body", "asked", "answered"])
        if stage in ("asked", "answered"):
            response = self.ask(self.chance.choice(["long 1000", "silent 8", "short 5"]))
            if response and stage == "answered":
                response.read1(10)
            if response:
                response.close()
            return
        body = self.form("long 1000")
        head = b"POST /chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        sent = {"connect": b"", "head": head[:30], "body": head + body[:-10]}[stage]
        with self.connected() as connection:
            connection.sendall(sent)
            if self.chance.random() < 0.5:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def ask(self, message: str) -> http.client.HTTPResponse | None:
        """Reserve an endpoint and send a chat; None if none is free."""
        if self.to_kernel("/v1.0/worker/schedule", self.ids).read() != b"READY":
            self.load.counts["busy"] += 1
            return None
        form = {**self.ids, "input": json.dumps([{"isbot": False, "msg": message}])}
        return self.to_kernel("/v1.0/chat/completions", form)

    def form(self, message: str) -> bytes:
        """Return a chat's form."""
        return urlencode({"input": json.dumps([{"isbot": False, "msg": message}])}).encode()

    def to_kernel(self, path: str, form: dict[str, str]) -> http.client.HTTPResponse:
        """Post a form to the Kernel; return the response, which closes its connection."""
        connection = http.client.HTTPConnection(HOST, self.load.kernel.port, timeout=SILENCE)
        fields = {"Content-Type": "application/x-www-form-urlencoded", "Connection": "close"}
        with closing(connection):  # the response keeps the socket
            connection.request("POST", path, urlencode(form).encode(), fields)
            return connection.getresponse()

    # -- directly

    def connected(self) -> socket.socket:
        """Connect to the executor."""
        return socket.create_connection((HOST, self.load.port), timeout=SILENCE)

    def garbage(self) -> None:
        """Send what is no request, and read what comes."""
        junk = self.chance.choice([*JUNK, self.chance.randbytes(self.chance.randint(1, 5000))])
        with self.connected() as connection:
            connection.sendall(junk)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    def half(self) -> None:
        """Send a part of a request, wait a while, and leave."""
        with self.connected() as connection:
            connection.sendall(self.chance.choice(HALVES))
            self.load.ends.wait(self.chance.uniform(0, 3))

    def flood(self) -> None:
        """Open many connections at once, and say nothing."""
        connections: list[socket.socket] = []
        try:
            connections += [self.connected() for _ in range(FLOOD)]
            time.sleep(HELD)
        finally:
            for connection in connections:
                connection.close()

    def poll(self) -> None:
        """Ask how the executor is; it must say so."""
        path = self.chance.choice(list(POLLS))
        with closing(http.client.HTTPConnection(HOST, self.load.port, timeout=SILENCE)) as client:
            started = time.monotonic()
            client.request("GET", path)
            response = client.getresponse()
            response.read()
            seconds = time.monotonic() - started
        self.load.counts["slowest poll, ms"] = max(
            self.load.counts["slowest poll, ms"], round(seconds * 1000)
        )
        if response.status != POLLS[path]:
            self.load.report(f"{path} says {response.status}")
