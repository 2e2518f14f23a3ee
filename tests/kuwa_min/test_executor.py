"""Check LLMExecutor through subclasses, and the life of its process."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from kuwa_min import LLMExecutor, Modelfile
from kuwa_min.kernel.embedded import EmbeddedKernel
from tests.fakes.kuwa.kernel_hangs import hanging_kernel
from tests.support.programs import (
    TIMEOUT,
    Program,
    call,
    chat_through,
    fetch,
    reserved_port,
    said,
    until,
)

pytestmark = pytest.mark.slow  # real processes, time limits or builds

ALONE = ("--ignore_kernel", "--host", "127.0.0.1")


def custom(folder: Path, body: str) -> tuple[str, ...]:
    """Write an executor's file and return the option that runs it."""
    path = folder / "custom.py"
    path.write_text(f"from kuwa_min import LLMExecutor\n\n\n{body}")
    return (str(path),)


def test_the_older_form_gets_the_raw_form_and_the_newer_one_history_and_modelfile() -> None:
    """Tell both forms of llm_compute apart."""

    class Old(LLMExecutor):
        async def llm_compute(self, data):  # type: ignore[no-untyped-def, override]
            """Take the form."""
            yield data["input"]

    class New(LLMExecutor):
        async def llm_compute(self, history, modelfile: Modelfile):  # type: ignore[no-untyped-def]
            """Take history and modelfile."""
            yield history[0]["content"]

    old, new = Old(), New()
    assert old._LLMExecutor__takes_form  # type: ignore[attr-defined]
    assert not new._LLMExecutor__takes_form  # type: ignore[attr-defined]


def test_options_read_before_run_are_those_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read self.args in __init__, as Kuwa's own executors may."""
    monkeypatch.setattr(sys, "argv", ["prog", "--port", "1234", "--log", "debug"])

    class Early(LLMExecutor):
        def __init__(self) -> None:
            super().__init__()
            self.seen = self.args.port

    one = Early()
    assert one.seen == 1234
    assert one.in_debug()
    assert one.kernel_url == "http://127.0.0.1:9000/"


def test_the_access_code_defaults_to_the_backends_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse nothing, then two names."""

    class ParrotExecutor(LLMExecutor):
        pass

    monkeypatch.setattr(sys, "argv", ["prog"])
    assert ParrotExecutor().args.access_code == ["parrot"]
    monkeypatch.setattr(sys, "argv", ["prog", "--access_code", "a", "b"])
    assert ParrotExecutor().args.access_code == ["a", "b"]
    assert ParrotExecutor().LLM_name == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "registered"), [((), ["second"]), (("--access_code", "mine"), ["mine"])]
)
def test_a_file_may_name_itself_unless_the_command_line_does(
    monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], registered: list[str]
) -> None:
    """Set LLM_name twice, as files for Kuwa 0.3.0 do in setup()."""
    monkeypatch.setattr(sys, "argv", ["prog", *given])
    one = LLMExecutor()
    one.LLM_name = "first"
    one.LLM_name = ["second"]
    assert one.LLM_name == one.args.access_code == registered


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unregisters_and_ends_with_code_0(number: signal.Signals) -> None:
    """Stop an idle executor in each way."""
    with EmbeddedKernel("127.0.0.1", 0) as kernel:
        with Program("debug", "--kernel_url", kernel.url) as program:
            until(lambda: "debug" in kernel.records.table())
            program.process.send_signal(number)
            assert program.end() == 0
        assert kernel.records.table() == {}


def test_sigterm_lets_a_running_answer_end_whole() -> None:
    """Stop in the middle of an answer of about a second."""
    with EmbeddedKernel("127.0.0.1", 0) as kernel:
        with Program("debug", "--kernel_url", kernel.url, "--delay", "0.02") as program:
            until(lambda: "debug" in kernel.records.table())
            ids = {"name": "debug", "history_id": "1", "user_id": "7"}
            assert fetch(f"{kernel.url}v1.0/worker/schedule", ids)[1] == "READY"
            form = {**ids, **said("x" * 50)}
            with call(f"{kernel.url}v1.0/chat/completions", form) as response:
                assert response.read(1) == b"x"
                program.process.terminate()
                assert response.read() == b"x" * 49
            assert program.end() == 0
        assert kernel.records.table() == {}


def test_sigterm_cuts_an_answer_that_takes_too_long() -> None:
    """Stop with a short drain."""
    options = ("--delay", "0.05", "--drain_timeout", "0.5")
    with Program("debug", *ALONE, *options) as program:
        with call(program.url, said("x" * 3000)) as response:
            assert response.read(1) == b"x"
            program.process.terminate()
            rest = response.read().decode()
        assert rest.endswith("<<</WARNING>>>")
        assert program.end() == 0


def test_a_hanging_kernel_delays_the_end_by_a_few_seconds_only() -> None:
    """Stop while the Kernel says nothing."""
    with hanging_kernel() as url, Program("debug", "--kernel_url", url) as program:
        assert fetch(f"{program.url.removesuffix('/chat')}/health")[0] == 204
        started = time.monotonic()
        program.process.terminate()
        assert program.end() == 0
        assert time.monotonic() - started < TIMEOUT / 2


def test_health_says_503_while_setup_runs_and_a_signal_interrupts_it(tmp_path: Path) -> None:
    """Load for a long time, then stop."""
    body = """
import time


class Slow(LLMExecutor):
    def setup(self):
        print("loading at", self.args.port, flush=True)
        time.sleep(60)


Slow().run()
"""
    with (
        reserved_port() as number,
        Program(*custom(tmp_path, body), *ALONE, "--port", str(number)) as program,
    ):
        port = program.wait_for(r"loading at (\d+)")[1]
        assert fetch(f"http://127.0.0.1:{port}/health")[0] == 503
        assert fetch(f"http://127.0.0.1:{port}/chat", said("x"))[0] == 503
        program.process.terminate()
        assert program.end() == 0


def test_setup_that_fails_is_one_line_and_code_1(tmp_path: Path) -> None:
    """Raise in setup."""
    body = """
class Broken(LLMExecutor):
    def setup(self):
        raise OSError("no such model")


Broken().run()
"""
    with Program(*custom(tmp_path, body), *ALONE) as program:
        assert program.end() == 1
    assert "setup failed: custom.py:7 in setup: OSError: no such model" in program.log
    assert "Traceback" not in program.log


def test_a_port_in_use_is_one_line_and_code_1() -> None:
    """Start two on one port."""
    with Program("debug", *ALONE) as first:
        port = first.url.rsplit(":", 1)[1].split("/")[0]
        with Program("debug", *ALONE, "--port", port) as second:
            assert second.end() == 1
        with Program("debug", "--embedded_kernel", f"127.0.0.1:{port}") as third:
            assert third.end() == 1
    said = f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose another "
    assert f"{said}--port or --bind\n" in second.log
    assert f"{said}--embedded_kernel\n" in third.log
    assert "Traceback" not in second.log + third.log


def test_abort_calls_the_subclasss_abort_which_may_unblock_it(tmp_path: Path) -> None:
    """Abort a backend that blocks until its own abort() is called."""
    body = """
import threading


class Blocking(LLMExecutor):
    def setup(self):
        self.stop = threading.Event()

    async def llm_compute(self, history, modelfile):
        yield "start"
        self.stop.wait(60)
        yield "never"

    async def abort(self):
        self.stop.set()


Blocking().run()
"""
    with Program(*custom(tmp_path, body), *ALONE) as program:
        with call(program.url, said("x")) as response:
            assert response.read(5) == b"start"
            assert fetch(f"{program.url}/abort")[1] == '{"msg":"Aborted"}'
            assert response.read() == b""
        assert fetch(program.url, said("y")) == (200, "startnever")


def test_abort_makes_the_stop_call_of_a_chat_that_blocks_and_of_no_other(tmp_path: Path) -> None:
    """Abort one of two chats that wait for nothing else."""
    body = """
import threading


class Blocking(LLMExecutor):
    uses_asyncio = False

    async def llm_compute(self, history, modelfile):
        stop = threading.Event()
        self.on_stop(stop.set)
        self.count_tokens(read=5, written=1)
        yield "start"
        stop.wait(60)
        print("unblocked", flush=True)


Blocking().run()
"""
    options = ("--concurrent_req_limit", "2", "--drain_timeout", "0")
    with Program(*custom(tmp_path, body), *ALONE, *options) as program:
        base = program.url.removesuffix("/chat")
        with call(program.url, said("x")) as first, call(f"{program.url}/1", said("y")) as second:
            assert first.read(5) == second.read(5) == b"start"
            assert fetch(f"{program.url}/1/abort")[1] == '{"msg":"Aborted"}'
            assert second.read() == b""
            program.wait_for("unblocked")
            until(lambda: json.loads(fetch(f"{base}/status")[1])["busy_slots"] == 1)
            metrics = fetch(f"{base}/metrics")[1]
            assert 'input_tokens_total{executor_name="blocking"} 10.0' in metrics
            assert 'output_tokens_total{executor_name="blocking"} 2.0' in metrics
            assert program.log.count("unblocked") == 1
            program.process.terminate()
            assert first.read().decode().endswith("<<</WARNING>>>")
        assert program.end() == 0
        assert program.log.count("unblocked") == 2


ASYNC = """
import asyncio


class Async(LLMExecutor):
    client = lock = queue = counter = None

    async def llm_compute(self, history, modelfile):
        if self.lock is None:
            self.lock, self.queue = asyncio.Lock(), asyncio.Queue()
            self.counter = asyncio.create_task(self.count())
        host, port = history[-1]["content"].split(":")
        async with self.lock:  # the second chat waits for the first one
            yield await self.ask(host, int(port))
            yield f" {await self.queue.get()}"

    async def ask(self, host, port):
        if self.client is None:
            self.client = await asyncio.open_connection(host, port)
        reader, writer = self.client
        writer.write(b"GET /health HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        return (await reader.readuntil(b"\\r\\n\\r\\n"))[9:12].decode()

    async def count(self):
        number = 0
        while True:
            number += 1
            await self.queue.put(number)
            await asyncio.sleep(0)


Async().run()
"""
HTTPX = """
import httpx2


class Client(LLMExecutor):
    def setup(self):
        self.client = httpx2.AsyncClient(trust_env=False)

    async def llm_compute(self, history, modelfile):
        answer = await self.client.get(f"http://{history[-1]['content']}/health")
        yield str(answer.status_code)


Client().run()
"""


def test_an_async_client_a_lock_a_queue_and_a_task_in_self_live_from_chat_to_chat(
    tmp_path: Path,
) -> None:
    """Three chats, two of them at once, over one connection that the first one opened."""
    options = ("--concurrent_req_limit", "2", "--waiting", "0")
    with Program(*custom(tmp_path, ASYNC), *ALONE, *options) as program:
        where = program.url.split("/")[2]
        assert fetch(program.url, said(where)) == (200, "204 1")
        with call(f"{program.url}/1", said(where)) as other:
            answers = {other.read().decode(), fetch(program.url, said(where))[1]}
        assert answers == {"204 2", "204 3"}
        program.process.terminate()
        assert program.end() == 0
    assert "Traceback" not in program.log
    assert " ERROR " not in program.log


def test_an_http_client_in_self_works_from_the_second_chat_on(tmp_path: Path) -> None:
    """That of httpx, which the clients of OpenAI and Ollama are built on."""
    pytest.importorskip("httpx2")
    with Program(*custom(tmp_path, HTTPX), *ALONE) as program:
        where = program.url.split("/")[2]
        assert [fetch(program.url, said(where)) for _ in range(3)] == [(200, "204")] * 3


def test_abort_runs_on_the_loop_of_the_chats(tmp_path: Path) -> None:
    """What asyncio made in a chat may be used there: nothing else ends this one early."""
    body = """
import asyncio


class Waiting(LLMExecutor):
    async def llm_compute(self, history, modelfile):
        self.stop = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        yield "start"
        await self.stop.wait()

    async def abort(self):
        self.stop.set()
        print("same loop:", asyncio.get_running_loop() is self.loop, flush=True)


Waiting().run()
"""
    with Program(*custom(tmp_path, body), *ALONE) as program:

        def abort() -> bool:
            """Abort one chat; on a busy machine the loop may seem to block, and is not used."""
            before = len(program.lines)
            with call(program.url, said("x")) as response:
                assert response.read(5) == b"start"
                assert fetch(f"{program.url}/abort")[0] == 200
                assert response.read() == b""
            until(lambda: "same loop" in "".join(program.lines[before:]))
            return "same loop: True" in "".join(program.lines[before:])

        until(abort)


def test_a_kernel_whose_name_does_not_resolve_is_waited_for() -> None:
    """Load, listen everywhere, say so once, and end well."""
    with Program("debug", "--delay", "0", "--kernel_url", "http://kernel.invalid:9000/") as program:
        program.wait_for("waiting for the Kernel at kernel.invalid:9000: cannot tell which address")
        port = program.wait_for(r"ready: 1 slot\(s\) at http://\S+:(\d+)/chat")[1]
        assert fetch(f"http://127.0.0.1:{port}/chat", said("hello")) == (200, "hello")
        program.process.terminate()
        assert program.end() == 0
    assert program.log.count("waiting for the Kernel") == 1


def test_waiting_chats_have_endpoints_that_the_kernel_lists() -> None:
    """As many as slots unless given."""
    with EmbeddedKernel("127.0.0.1", 0) as kernel:
        for options, count in (((), 2), (("--concurrent_req_limit", "3", "--waiting", "1"), 4)):
            with Program("debug", "--kernel_url", kernel.url, *options) as program:
                until(lambda n=count: len(kernel.records.table().get("debug", [])) == n)
                paths = [row[0].split("/", 3)[3] for row in kernel.records.table()["debug"]]
                assert paths == ["chat", "chat/1", "chat/2", "chat/3"][:count]
                program.process.terminate()
                assert program.end() == 0


def test_status_shows_how_far_a_busy_setup_is_and_then_the_model(tmp_path: Path) -> None:
    """Load with all of the processor until the test says that it is enough."""
    body = f"""
from pathlib import Path


class Loading(LLMExecutor):
    def setup(self):
        steps = self.progress("loading ./model")
        steps.started -= 2
        steps(3, 10)
        while not Path({str(tmp_path / "enough")!r}).exists():
            sum(range(10_000))
        self.describe(model="Qwen2ForCausalLM", context=32768)

    async def llm_compute(self, history, modelfile):
        yield "x"


Loading().run()
"""

    def took() -> float:
        started = time.monotonic()
        fetch(f"{base}/status")
        return time.monotonic() - started

    with (
        reserved_port() as port,
        Program(
            *(*custom(tmp_path, body), *ALONE, "--port", str(port), "--executor_path", "auto")
        ) as program,
    ):
        base = f"http://127.0.0.1:{port}"
        program.wait_for(r"INFO kuwa_min.serving.backend_status: loading ./model: 30 %, \d+ s left")
        until(lambda: took() < 0.1)  # the slower ones may have waited for the machine
        code, text = fetch(f"{base}/status")
        loading = json.loads(text)
        assert (code, loading["state"], loading["model"]) == (200, "loading", {})
        assert loading["progress"]["what"] == "loading ./model"
        assert loading["progress"]["percent"] == 30
        assert loading["progress"]["seconds_left"] > 4
        assert fetch(f"{base}/health")[0] == 503
        (tmp_path / "enough").touch()
        program.wait_for("ready: ")
        until(lambda: fetch(f"{base}/health")[0] == 204)
        found = json.loads(fetch(f"{base}/status")[1])
        assert found["state"] == "ready"
        assert found["access_codes"] == ["loading"]
        assert found["model"] == {"model": "Qwen2ForCausalLM", "context": 32768}
        assert "progress" not in found
        assert "/chat" not in str(found)


def test_a_secret_path_is_registered_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Let the executor choose one; neither its log nor the Kernel's has it at any level."""
    caplog.set_level("DEBUG")
    with EmbeddedKernel("127.0.0.1", 0) as kernel:
        options = ("--kernel_url", kernel.url, "--executor_path", "auto", "--log", "DEBUG")
        with Program("debug", *options) as program:
            until(lambda: "debug" in kernel.records.table())
            endpoint = kernel.records.table()["debug"][0][0]
            path = endpoint.split("/", 3)[3]
            assert len(path) == len("/chat") + 32
            assert chat_through(kernel.url.rstrip("/"), "debug", "hello") == "hello"
            until(lambda: "characters in" in program.log)
            secret = path.partition("/")[0]
            assert secret not in program.log
        assert secret not in caplog.text
        assert "an executor joined: debug at http" in caplog.text


def test_tls_is_served_and_registered(tmp_path: Path) -> None:
    """Chat over TLS with a certificate made for the test."""
    import ssl
    import subprocess
    import urllib.request

    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    options = ("--tls_cert", str(certificate), "--tls_key", str(key))
    with Program("debug", *ALONE, *options, "--delay", "0") as program:
        assert program.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(certificate))
        form = "&".join(f"{k}={v}" for k, v in {"input": '[{"isbot":false,"msg":"hi"}]'}.items())
        with urllib.request.urlopen(program.url, form.encode(), context=context) as answer:
            assert answer.read() == b"hi"


def test_content_is_logged_only_when_asked_for() -> None:
    """Chat with and without --log_content."""
    for options, expected in (((), False), (("--log_content",), True)):
        with Program("debug", *ALONE, "--delay", "0", "--log", "DEBUG", *options) as program:
            fetch(program.url, said("a private matter", openai_token="sk-secret-token-value"))
            program.wait_for("endpoint 0: answered")
            assert ("a private matter" in program.log) is expected
            assert "sk-secret" not in program.log


def test_the_modelfile_overrides_the_command_line() -> None:
    """Slow a quick executor down for one chat, then ask for the impossible."""
    modelfile = '[{"name": "parameter", "args": "llm_delay 0.2"}]'
    with Program("debug", *ALONE, "--delay", "0") as program:
        started = time.monotonic()
        assert fetch(program.url, said("abc", modelfile=modelfile))[1] == "abc"
        assert time.monotonic() - started > 0.5
        bad = modelfile.replace("0.2", "-1")
        assert fetch(program.url, said("abc", modelfile=bad))[1] == (
            "[The option llm_delay must be at least 0.]"
        )
