"""The real executor process among hostile and careless clients."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from kuwa_min.httpd.messages import TEXT, Request, Response
from kuwa_min.httpd.server import Server
from tests.support.programs import MODULE, ROOT, Program, call, fetch, said, until

TIMEOUT = 60.0  # seconds until a test gives up
SILENCE = 10 * TIMEOUT  # seconds of a backend that waits or blocks
MB = 1 << 20
OFFLINE = ("--ignore_kernel", "--host", "127.0.0.1", "--port", "0")
TOKENS = ("openai_token", "google_token", "third_party_token", "user_token")
FORM = "Content-Type: application/x-www-form-urlencoded"

ENDLESS = """
from kuwa_min import LLMExecutor

class Endless(LLMExecutor):
    async def llm_compute(self, history, modelfile):
        while True:
            yield "x" * int(history[-1]["content"])
"""
BLOCKING = f"""
import threading
from kuwa_min import LLMExecutor

class Blocking(LLMExecutor):
    async def llm_compute(self, history, modelfile):
        yield "begun"
        threading.Event().wait({SILENCE})
        yield "late"
"""
COUNTING = """
import threading
from kuwa_min import LLMExecutor

class Counting(LLMExecutor):
    inside = 0

    async def llm_compute(self, history, modelfile):
        self.inside += 1
        try:  # an abort may find it at its yield, where it is closed
            yield "alone" if self.inside == 1 else "together"
            threading.Event().wait(0.5)
        finally:
            self.inside -= 1
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc"),
]


@contextlib.contextmanager
def running(*options: str, backend: str | Path = "debug") -> Iterator[Program]:
    """Run an executor without a Kernel; its block starts when it is ready."""
    with Program(str(backend), *OFFLINE, *options) as program:
        program.wait_for("ready: ")
        yield program


@pytest.fixture(scope="module")
def debug() -> Iterator[Program]:
    """Run one debug executor for every test that needs no options of its own."""
    with running("--delay", "0", "--log", "DEBUG") as program:
        yield program


def address(program: Program) -> tuple[str, int]:
    """Return where an executor listens."""
    parts = urlsplit(program.url)
    return parts.hostname or "", parts.port or 0


def at(program: Program, path: str) -> str:
    """Return the URL of a path."""
    return "http://{}:{}{}".format(*address(program), path)


def connect(program: Program) -> socket.socket:
    """Open a connection."""
    return socket.create_connection(address(program), TIMEOUT)


def post(body: bytes, *fields: str, path: str = "/chat") -> bytes:
    """Return the bytes of a request."""
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


def chat(*messages: str, **fields: str) -> bytes:
    """Return the bytes of a chat."""
    return post(urlencode(said(*messages, **fields)).encode(), FORM)


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    """Read until a mark came."""
    data = b""
    while mark not in data:
        more = sock.recv(65536)
        assert more, f"the executor hung up after {data!r}"
        data += more
    return data


def memory(program: Program, what: str = "VmRSS") -> int:
    """Return a figure of a process's memory in bytes."""
    status = Path(f"/proc/{program.process.pid}/status").read_text(encoding="ascii")
    found = re.search(rf"{what}:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def forget_peak(program: Program) -> None:
    """Let VmHWM start anew."""
    Path(f"/proc/{program.process.pid}/clear_refs").write_text("5", encoding="ascii")


def took(action: Callable[[], object]) -> float:
    """Return the seconds that something took."""
    started = time.monotonic()
    action()
    return time.monotonic() - started


def stop(program: Program) -> int:
    """Ask an executor to end and return its exit code; its log is complete then."""
    program.process.send_signal(signal.SIGTERM)
    return program.end()


# -- noise


def mutate(some: random.Random) -> bytes:
    """Make bytes that look like a request, or like nothing."""
    seeds = [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /metrics HTTP/1.0\r\n\r\n",
        b"GET /chat/abort HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nHost: [::1]:1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"8\r\ninput=[]\r\n0\r\n\r\n",
        chat("hello", modelfile='[{"name": "system", "args": "be kind"}]'),
        post(b"--b\r\nContent-Disposition: form-data; name=input\r\n\r\n[]\r\n--b--\r\n"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    if some.random() < 0.2:
        return some.randbytes(some.randrange(400))
    data = bytearray(some.choice(seeds))
    for _ in range(some.randrange(8)):
        where = some.randrange(len(data) + 1)
        odd = [b"\r\n", b"\n", b"\0", b" ", b":", b"\xff\xfe", b"9" * 30, b"a" * 5000, b"%s%n"]
        end = some.choice([where, where, where + 1, where + some.randrange(20)])
        data[where:end] = some.choice([*odd, some.randbytes(3), bytes(data[: where // 2])])
    return bytes(data)


def test_noise_neither_kills_nor_confuses_nor_fattens_the_executor(debug: Program) -> None:
    """Throw 1,500 connections of seeded noise at it, for three seconds at most."""
    some, lines = random.Random(20), len(debug.lines)

    def throw() -> None:
        with connect(debug) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(mutate(some))
            if some.random() < 0.9:
                sock.shutdown(socket.SHUT_WR)
                answer = sock.recv(65536)
                assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
                assert b"Traceback" not in answer

    for _ in range(100):
        throw()
    before, deadline = memory(debug), time.monotonic() + 3
    for _ in range(1500):
        throw()
        if time.monotonic() > deadline:
            break
    assert fetch(at(debug, "/health"))[0] == 204
    assert until(lambda: fetch(debug.url, said("still here"))) == (200, "still here")
    assert memory(debug) - before < 8 * MB
    log = "".join(debug.lines[lines:])
    assert "Traceback" not in log
    assert " ERROR " not in log


def test_200_health_checks_at_once_take_hardly_longer_than_one_after_the_other(
    debug: Program,
) -> None:
    """Connect and ask 200 times before reading a single answer; a lost SYN would cost a second."""
    where = address(debug)

    def ask(count: int) -> None:
        with contextlib.ExitStack() as stack:
            socks = [socket.create_connection(where, TIMEOUT) for _ in range(count)]
            for sock in map(stack.enter_context, socks):
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert all(sock.recv(500).startswith(b"HTTP/1.1 204 ") for sock in socks)

    def one_by_one() -> None:
        for _ in range(200):
            ask(1)

    until(lambda: took(lambda: ask(200)) < took(one_by_one) + 0.5)


@pytest.mark.parametrize(
    ("head", "piece", "growth"),
    [
        (f"Content-Length: {64 * MB}", b"x" * 65536, 2 * MB),
        ("Transfer-Encoding: chunked", b"10000\r\n" + b"x" * 65536 + b"\r\n", 12 * MB),
    ],
)
def test_64_mb_are_refused_without_taking_memory(
    debug: Program, head: str, piece: bytes, growth: int
) -> None:
    """Send as much as the executor lets us, and look at the peak of its memory."""
    fetch(debug.url, said("warm"))
    forget_peak(debug)
    before = memory(debug)
    with connect(debug) as sock:
        sock.sendall(f"POST /chat HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(1024):
                sock.sendall(piece)
        assert sock.recv(100).startswith(b"HTTP/1.1 413 ")
    assert memory(debug, "VmHWM") - before < growth


def test_silent_connections_leave_descriptors_for_everything_else() -> None:
    """Allow 256 files and open many more connections: chats and late imports go on."""
    shell = ("/bin/sh", "-c", f'cd "{ROOT}" && ulimit -n 256 && exec "$@"', "sh", *MODULE)
    options = ("debug", *OFFLINE, "--delay", "0", "--waiting", "300")
    with Program(*options, command=shell) as program, contextlib.ExitStack() as stack:
        program.wait_for(r"at most 256 open files \(ulimit -n\) allow 189 connections at once")
        descriptors = Path(f"/proc/{program.process.pid}/fd")
        program.wait_for("ready: ")
        for _ in range(8):
            for _ in range(100):
                stack.enter_context(connect(program))
            assert fetch(program.url, said("hello")) == (200, "hello")
            assert fetch(at(program, "/status"))[0] == 200
            assert len(list(descriptors.iterdir())) < 256 - 32
        assert stop(program) == 0
    assert " ERROR " not in program.log


def test_bodies_that_never_end_take_a_bounded_memory(debug: Program) -> None:
    """Leave 40 of 8 MB unfinished: large and small chats are answered, the oldest is told why."""
    forget_peak(debug)
    before, size = memory(debug), 8 * MB
    with contextlib.ExitStack() as stack:
        first = None
        for number in range(40):
            drip = stack.enter_context(connect(debug))
            drip.sendall(post(b"x" * size)[:-1])
            first = first or drip
            if number == 19:  # many more than have room; after 20 s it is told another reason
                first.sendall(b"x")
                assert read_until(first, b"moment.").startswith(b"HTTP/1.1 503 ")
        assert fetch(debug.url, said("hello")) == (200, "hello")
        assert fetch(debug.url, said("x" * 6 * MB, "yes", "hello")) == (200, "hello")
        assert memory(debug, "VmHWM") - before < 200 * MB


@pytest.mark.parametrize(
    "body",
    [
        b"input=" + b"%41" * (8 * MB // 3 - 2),
        b"input=[" + b"%7B%7D%2C" * (8 * MB // 9 - 2) + b"0]",
        b"input=[" + b"{}," * (8 * MB // 3 - 3) + b"0]",
        b"input=[]&modelfile=[" + b'{"name":"a","args":"b"},' * 340_000 + b"0]",
        b"input=" + b"%" * (8 * MB - 6),
        b"a=1&" * (2 * MB),
    ],
    ids=["escapes", "escaped JSON", "JSON", "Modelfile", "percent signs", "fields"],
)
def test_a_body_that_could_become_much_stays_what_it_is(debug: Program, body: bytes) -> None:
    """Each took half a gigabyte and seconds."""
    fetch(debug.url, said("warm"))
    forget_peak(debug)
    before = memory(debug)
    with connect(debug) as sock:
        sock.sendall(post(body, FORM))
        assert read_until(sock, b"}").startswith(b"HTTP/1.1 400 ")
    assert memory(debug, "VmHWM") - before < 50 * MB


def test_a_form_of_a_million_parts_takes_little_memory(debug: Program) -> None:
    """Send eight megabytes of nothing but boundaries."""
    body = b"--b" + b"\r\n--bxy" * (8 * MB // 7 - 1)
    fetch(debug.url, said("warm"))
    forget_peak(debug)
    before = memory(debug)
    with connect(debug) as sock:
        sock.sendall(post(body, "Content-Type: multipart/form-data; boundary=b"))
        assert sock.recv(100).startswith(b"HTTP/1.1 4")
    assert memory(debug, "VmHWM") - before < 36 * MB


def test_a_modelfile_of_nonsense_does_not_flood_the_log(debug: Program) -> None:
    """Send 10,000 entries that will be skipped: a few lines say so."""
    entries: list[object] = [1, {}, {"name": "nonsense", "args": "x"}, {"name": 1}]
    lines = len(debug.lines)
    form = said("hello", modelfile=json.dumps(entries * 2500))
    assert fetch(debug.url, form) == (200, "hello")
    fetch(at(debug, "/mark"))
    until(lambda: "GET (5 characters): 404" in "".join(debug.lines[lines:]))
    assert len(debug.lines) - lines < 100


# -- secrets


def test_secrets_and_texts_never_reach_log_metrics_or_errors() -> None:
    """Chat, well and badly, with a secret in every place where users put them."""
    secrets = {name: f"{name}-s3cr3t-{number}" for number, name in enumerate(TOKENS)}
    fields = {"Authorization": "Bearer h3ader-s3cr3t", "Cookie": "session=c00kie-s3cr3t"}
    text = "my pers0nal words"
    modelfile = [
        {"name": name, "args": f"user {text}"}
        for name in ("system", "message", "parameter", "template", "before-prompt", "#")
    ]
    modelfile += [
        {"name": "pers0nal", "args": "a"},
        {"name": "parameter", "args": "llm_pers0nal 1"},
    ]
    good = said(text, **secrets, modelfile=json.dumps(modelfile))
    bodies = []
    with running("--delay", "0", "--log", "DEBUG") as program:
        assert fetch(program.url, good, fields=fields) == (200, text)
        forms: list[dict[str, str]] = [
            {**secrets, "input": text},
            {**secrets, "input": json.dumps([text])},
            {**secrets, "input": json.dumps({"isbot": False, "msg": text})},
            {**good, "modelfile": text},
            {**good, "modelfile": json.dumps(text)},
        ]
        for form in forms:
            bodies.append(fetch(program.url, form, fields=fields))
        rebound = {"Host": "pers0nal.example", "Origin": "http://pers0nal.example"}
        for more in (rebound, {"Origin": "http://pers0nal.example"}, {"Origin": "pers0nal"}):
            bodies.append(fetch(program.url, good, fields={**fields, **more}))
        bodies.append(fetch(program.url, good, fields=fields, method="PUT"))
        bodies.append(fetch(at(program, "/pers0nal"), good, fields=fields))
        for url in ("/chat/abort", "/health", "/nothing"):
            with connect(program) as sock:
                request = f"GET {url}?user_token={secrets['user_token']} HTTP/1.1\r\n"
                sock.sendall(f"{request}Host: localhost\r\nConnection: close\r\n\r\n".encode())
                bodies.append((500, read_until(sock, b"\r\n\r\n").decode()))
        metrics = fetch(at(program, "/metrics"))[1]
        with call(program.url, said(text, **secrets), fields=fields) as response:
            response.read()
        slow = {**good, "modelfile": '[{"name": "parameter", "args": "llm_delay nonsense"}]'}
        bodies.append((400, fetch(program.url, slow, fields=fields)[1]))
        assert stop(program) == 0
    assert all(status >= 400 for status, _ in bodies)
    assert "characters in" in program.log
    for secret in (*secrets.values(), "h3ader-s3cr3t", "c00kie-s3cr3t", "s3cr3t", "pers0nal"):
        assert secret not in program.log
        assert secret not in metrics
        assert not [body for _, body in bodies if secret in body]


def test_a_failing_backend_shows_no_texts_either(tmp_path: Path) -> None:
    """Let the backend raise with the user's text in its error."""
    path = tmp_path / "failing.py"
    path.write_text(
        "from kuwa_min import LLMExecutor\n"
        "class Failing(LLMExecutor):\n"
        "    async def llm_compute(self, history, modelfile):\n"
        "        yield 'begun. '\n"
        "        raise ValueError(history, modelfile.parameters['_user_token'])\n",
        encoding="utf-8",
    )
    with running("--log", "DEBUG", backend=path) as program:
        status, text = fetch(program.url, said("pers0nal", user_token="s3cr3t"))
        assert (status, text) == (200, "begun. Error occurred. Please consult support.")
        assert stop(program) == 0
    assert "failing.py:5 in llm_compute: ValueError\n" in program.log
    assert "pers0nal" not in program.log
    assert "s3cr3t" not in program.log


# -- malformed chats

DEEP = 100_000


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"input": "nonsense k1ck"},
        {"input": '["k1ck"'},
        {"input": '"k1ck"'},
        {"input": "null"},
        {"input": "true"},
        {"input": "{}"},
        {"input": '["k1ck"]'},
        {"input": "[null]"},
        {"input": '[{"isbot": false, "msg": "x"}, "k1ck"]'},
        {"input": f"[{'9' * 5000}]"},
        {"input": "[NaN, Infinity]"},
        {"input": "[" * DEEP},
        {"input": "[" * DEEP + "]" * DEEP},
        {"input": '{"a":' * DEEP},
        {"input": '[{"isbot": false, "msg": ' + "[" * DEEP},
        {"input": "[]", "modelfile": "k1ck"},
        {"input": "[]", "modelfile": "1"},
        {"input": "[]", "modelfile": '"k1ck"'},
        {"input": "[]", "modelfile": "[" * DEEP},
        {"input": "[]", "modelfile": f"[{'9' * 5000}]"},
        {f"field{number}": "k1ck" for number in range(101)},
    ],
    ids=str,
)
def test_a_malformed_chat_is_a_short_kind_400(debug: Program, form: dict[str, str]) -> None:
    """Answer a sentence for the user in JSON, without repeating anything of the request."""
    status, text = fetch(debug.url, form)
    assert status == 400
    message = json.loads(text)["msg"]
    assert message.endswith((".", "!"))
    assert len(text) < 200
    assert "k1ck" not in text


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "multipart/form-data; boundary=b"),
        (b"--b--\r\n", "multipart/form-data; boundary=b"),
        (b"&&&&", "application/x-www-form-urlencoded"),
        (b'{"input": []}', "application/json"),
        (b"\x00\xff\xfe" * 100, "application/octet-stream"),
        (b"k1ck", "text/plain"),
    ],
)
def test_a_body_that_is_no_form_is_an_empty_request(
    debug: Program, body: bytes, content_type: str
) -> None:
    """Say so instead of answering a chat without a question."""
    with connect(debug) as sock:
        sock.sendall(post(body, f"Content-Type: {content_type}", "Connection: close"))
        answer = read_until(sock, b"}")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"msg":"Received empty request!"}')


def test_odd_but_harmless_chats_are_answered(debug: Program) -> None:
    """Take what the Kernel may send: no msg, a null msg, a null modelfile, unknown commands."""
    text = '[{"isbot": false}, {"isbot": true, "msg": null}, {"isbot": false, "msg": "x"}]'
    odd = '[1, null, {}, {"name": 1, "args": []}, {"name": "unknown", "args": "x"}]'
    for modelfile in ("", "null", "[]", odd):
        assert fetch(debug.url, {"input": text, "modelfile": modelfile}) == (200, "x")


@pytest.mark.parametrize("value", ["nonsense", "-1", "nan", "inf", "1e400", "9" * 5000])
def test_an_impossible_option_in_a_modelfile_is_a_sentence(debug: Program, value: str) -> None:
    """End the answer with what is wrong, not with an apology."""
    command = {"name": "parameter", "args": f"llm_delay {value}"}
    status, text = fetch(debug.url, said("hello", modelfile=json.dumps([command])))
    assert (status, text[:17]) == (200, "[The option llm_d")
    assert len(text) < 100


# -- odd surroundings


def test_closed_standard_streams_never_become_a_client() -> None:
    """Start with fds 0 to 2 closed; learn the port from the registration."""
    endpoints: list[str] = []

    def register(request: Request) -> Response:
        found = re.search(r"endpoint=([^&]+)", request.body.decode())
        assert found
        endpoints.append(found[1].replace("%3A", ":").replace("%2F", "/"))
        return Response(200, b"Success", TEXT)

    table = {f"/v1.0/worker/{verb}": {"POST": register} for verb in ("register", "unregister")}
    with Server(("127.0.0.1", 0), table) as kernel:
        url = f"http://127.0.0.1:{kernel.port}/"
        command = [*MODULE, "debug", "--delay", "0", "--log", "DEBUG", "--kernel_url", url]
        with subprocess.Popen(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], cwd=ROOT
        ) as process:
            try:
                (chat_url,) = until(lambda: endpoints[:1])
                for _ in range(3):
                    assert fetch(chat_url, said("clean")) == (200, "clean")
                for number in range(3):
                    link = Path(f"/proc/{process.pid}/fd/{number}").resolve()
                    assert link == Path(os.devnull)
            finally:
                process.terminate()
            assert process.wait(TIMEOUT) == 0


def test_a_log_that_is_never_read_stops_nothing() -> None:
    """Fill the pipe of the log with thousands of lines; the executor serves on, and ends."""
    with subprocess.Popen(
        [*MODULE, "debug", *OFFLINE, "--delay", "0", "--log", "DEBUG"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        try:
            fcntl.fcntl(process.stderr, 1031, 4096)  # F_SETPIPE_SZ, which Python 3.10 does not name
            said_so = b""
            while not (found := re.search(rb"ready: .*:(\d+)/chat .*\n", said_so)):
                said_so += os.read(process.stderr.fileno(), 1)
            where = ("127.0.0.1", int(found[1]))
            request = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
            with socket.create_connection(where, TIMEOUT) as sock:
                for _ in range(40):
                    sock.sendall(request)
                    answers = b""
                    while answers.count(b"HTTP/1.1 404 ") < 100 or not answers.endswith(b"}"):
                        answers += sock.recv(65536)
            url = "http://{}:{}/chat".format(*where)
            assert fetch(url, said("still here")) == (200, "still here")
            process.terminate()
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()


# -- clients that do not read


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """Write a backend that never ends."""
    path = tmp_path / "endless.py"
    path.write_text(ENDLESS, encoding="utf-8")
    return path


def deaf(program: Program, slot: int = 0, size: int = 1000) -> socket.socket:
    """Start a chat with pieces of this size, and read nothing of the answer but its head."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(TIMEOUT)
    sock.connect(address(program))
    path = f"/chat/{slot}" if slot else "/chat"
    sock.sendall(post(urlencode(said(str(size))).encode(), FORM, path=path))
    assert sock.recv(16) == b"HTTP/1.1 200 OK\r"
    return sock


def metric(program: Program, name: str) -> int:
    """Return one of the executor's numbers."""
    found = re.search(rf"_{name}\{{.*\}} (\d+)", fetch(at(program, "/metrics"))[1])
    assert found
    return int(found[1])


def busy_slots(program: Program) -> int:
    """Return how many chats run."""
    return metric(program, "busy_slots")


@pytest.mark.slow
def test_64_clients_that_never_read_take_little_memory_and_are_dropped(endless: Path) -> None:
    """Fill every buffer there is, 64 times; soon after the time limit every slot is free again."""
    with (
        running("--concurrent_req_limit", "64", backend=endless) as program,
        contextlib.ExitStack() as stack,
    ):
        with deaf(program), connect(program):
            until(lambda: busy_slots(program) == 1)
        until(lambda: busy_slots(program) == 0)
        before, pieces = memory(program), "time_to_first_piece_seconds_count"
        answered = metric(program, pieces)
        for slot in range(64):
            stack.enter_context(deaf(program, slot))
        until(lambda: metric(program, pieces) == answered + 64)
        most = 0

        def all_free() -> bool:
            nonlocal most
            most = max(most, memory(program))
            return busy_slots(program) == 0

        until(all_free)
        assert most - before < 16 * MB
        assert fetch(at(program, "/health"))[0] == 204


def test_abort_is_answered_at_once_although_the_client_does_not_read(endless: Path) -> None:
    """Abort an answer whose piece waits for a stalled client, and chat in its slot again."""
    with running(backend=endless) as program, deaf(program, size=16 * MB):
        until(lambda: metric(program, "time_to_first_piece_seconds_count") == 1)
        assert fetch(f"{program.url}/abort") == (200, '{"msg":"Aborted"}')
        assert metric(program, "aborted_total") == 1
        assert metric(program, "disconnected_total") == 0  # as it is when a stalled one is dropped
        with deaf(program):
            assert busy_slots(program) == 1


def test_the_end_does_not_wait_for_stalled_clients(endless: Path) -> None:
    """Stop an executor whose four answers wait for stalled clients."""
    options = ("--concurrent_req_limit", "4", "--drain_timeout", "0")
    with (
        running(*options, backend=endless) as program,
        contextlib.ExitStack() as stack,
    ):
        for slot in range(4):
            stack.enter_context(deaf(program, slot, size=8 * MB))
        until(lambda: metric(program, "time_to_first_piece_seconds_count") == 4)
        assert stop(program) == 0
    assert program.log.count("cut short") == 4  # else they were dropped at the limit of their time
    assert " ERROR " not in program.log


def test_health_and_metrics_are_quick_during_a_stream_flat_out(endless: Path) -> None:
    """Ask both while an answer streams as fast as it can, until the machine has time for all."""

    def drain(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sock.recv(65536):
                pass

    with running(backend=endless) as program, connect(program) as sock:

        def ask() -> float:
            paths = ("/health", "/metrics") * 10
            return statistics.median(took(partial(fetch, at(program, path))) for path in paths)

        sock.sendall(chat("16"))
        read_until(sock, b"\r\n\r\n")
        reading = threading.Thread(target=drain, args=(sock,))
        reading.start()
        until(lambda: ask() < 0.1)
        assert busy_slots(program) == 1
        sock.shutdown(socket.SHUT_RDWR)
        reading.join(TIMEOUT)
        until(lambda: busy_slots(program) == 0)


# -- ends


@pytest.fixture
def silent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    """Run a backend that says little and then nothing: one that waits, or one that blocks."""
    if request.param == "waits":
        with running("--delay", str(SILENCE)) as program:
            yield program
    else:
        path = tmp_path / "blocking.py"
        path.write_text(BLOCKING, encoding="utf-8")
        with running(backend=path) as program:
            yield program


both = pytest.mark.parametrize("silent", ["waits", "blocks"], indirect=True)


@both
def test_abort_ends_the_answer_of_a_silent_backend_at_once(silent: Program) -> None:
    """Abort during silence: the answer ends whole, and the slot is free."""
    with connect(silent) as sock:
        sock.sendall(chat("begun"))
        read_until(sock, b"\r\n\r\n")
        assert fetch(f"{silent.url}/abort") == (200, '{"msg":"Aborted"}')
        assert read_until(sock, b"0\r\n\r\n")
    with call(silent.url, said("next")) as response:
        assert response.status == 200


@both
@pytest.mark.parametrize("linger", [b"\0\0\0\0\0\0\0\0", b"\1\0\0\0\0\0\0\0"], ids=["fin", "rst"])
def test_after_a_client_left_the_next_chat_is_accepted_at_once(
    silent: Program, linger: bytes
) -> None:
    """Hang up during silence and chat again, as soon as there is no 429.

    The second client leaves a byte behind that was not read.
    """
    for behind in (b"", b"x"):
        with connect(silent) as sock:
            sock.sendall(chat("begun"))
            read_until(sock, b"\r\n\r\n")
            sock.sendall(behind)
            assert fetch(silent.url, said("next"))[0] == 429
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        def accepted() -> bool:
            with call(silent.url, said("next")) as response:
                return response.status == 200

        until(accepted)
        until(lambda: "No process" in fetch(f"{silent.url}/abort")[1])


def test_a_backend_that_blocks_is_never_entered_twice(tmp_path: Path) -> None:
    """Abort a chat that blocks and the next one, which waits for it; the third must wait too."""
    path = tmp_path / "counting.py"
    path.write_text(COUNTING, encoding="utf-8")
    with running(backend=path) as program:
        for mark in (b"alone\r\n", b"\r\n\r\n"):
            with connect(program) as sock:
                sock.sendall(chat("begin"))
                read_until(sock, mark)
                fetch(f"{program.url}/abort")
                assert read_until(sock, b"0\r\n\r\n")
        assert fetch(program.url, said("begin")) == (200, "alone")


def test_chats_and_aborts_in_a_hurry_never_wedge_a_slot() -> None:
    """Start, abort and leave 200 chats in every order; at the end the slot works."""
    some = random.Random(7)
    with running("--delay", "0.001") as program:
        host, port = address(program)
        for _ in range(200):
            with connect(program) as sock:
                sock.sendall(chat("a few words"))
                if some.random() < 0.5:
                    sock.recv(some.choice([1, 400]))
                if some.random() < 0.5:
                    abort = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
                    abort.request("GET", "/chat/abort")
                    assert abort.getresponse().status == 200
                    abort.close()
        until(lambda: busy_slots(program) == 0)
        assert fetch(program.url, said("works")) == (200, "works")
        descriptors = Path(f"/proc/{program.process.pid}/fd")
        until(lambda: len(list(descriptors.iterdir())) < 40)  # the last threads close theirs
        assert stop(program) == 0
    assert " ERROR " not in program.log
    assert "Traceback" not in program.log


def test_one_kept_connection_carries_many_chats_beside_a_stream() -> None:
    """Send each chat as soon as the last chunk of the one before came; nothing ever pauses."""
    with running("--delay", "0", "--concurrent_req_limit", "2") as program:
        host, port = address(program)
        stream = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        stream.request("POST", "/chat/1", urlencode(said("x" * (MB // 2))))
        flowing = stream.getresponse()
        ended, pauses = threading.Event(), [0.0]

        def read() -> None:
            last = time.monotonic()
            while flowing.read1(65536):
                now = time.monotonic()
                pauses.append(now - last)
                last = now
            ended.set()

        reading = threading.Thread(target=read)
        reading.start()
        chats = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        while not ended.is_set():
            chats.request("POST", "/chat", urlencode(said("short")))
            assert chats.getresponse().read() == b"short"
        reading.join(TIMEOUT)
        chats.close()
        stream.close()
        assert max(pauses) < 5
