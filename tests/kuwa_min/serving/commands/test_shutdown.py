"""GET /shutdown: who may ask, and what comes of it."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from kuwa_min.chat.sentence import render
from kuwa_min.errors import HTTPError
from kuwa_min.httpd import http1
from kuwa_min.httpd.messages import Request
from kuwa_min.kernel.embedded import EmbeddedKernel
from kuwa_min.serving.commands.kernel_addresses import KernelAddresses
from kuwa_min.serving.commands.shutdown import ShutdownRoute
from tests.support.programs import Program, call, fetch, said, until

KERNEL = "http://192.0.2.7:9000/"


def ask(peer: str, *fields: str) -> bool:
    """Ask from this address with these header fields; return whether it stops."""
    stopped = list[bool]()
    lines = ["GET /shutdown HTTP/1.1", "Host: 10.0.0.5:8080", *fields]
    head = http1.parse_head("\r\n".join(lines).encode())
    route = ShutdownRoute(lambda: stopped.append(True), KernelAddresses(lambda: KERNEL))
    try:
        reply = route(Request("GET", "/shutdown", head, b"", peer))
    except HTTPError as refusal:
        assert refusal.status == 403
        assert render(refusal.message, "en").endswith(".")
        return False
    assert (reply.status, reply.body) == (200, b'{"msg":"Shutting down..."}')
    assert stopped == []  # not before the answer is sent
    assert reply.after is not None
    reply.after()
    return stopped == [True]


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "192.0.2.7", "::ffff:192.0.2.7"])
def test_the_kernel_and_this_machine_may_ask(peer: str) -> None:
    """The Kernel is known by its address."""
    assert ask(peer)
    assert ask(peer, "User-Agent: python-requests/2.32.3", "Accept: */*")


def test_another_machine_may_not_ask() -> None:
    """From another machine."""
    assert not ask("192.0.2.8")


@pytest.mark.parametrize(
    "field",
    [
        "Origin: http://evil.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: none",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
        "Accept-Language: en",
        "Referer: http://a.example/",
        "Accept: image/avif,image/webp,*/*;q=0.8",
        "X-Forwarded-For: 192.0.2.8",
        "Forwarded: for=192.0.2.8",
        "Via: 1.1 proxy",
        "X-Forwarded-Proto: https",
        "CF-Connecting-IP: 192.0.2.8",
    ],
)
@pytest.mark.parametrize("peer", ["127.0.0.1", "192.0.2.7"])
def test_browsers_and_proxies_are_refused(peer: str, field: str) -> None:
    """Even on this machine, and on the Kernel's."""
    assert not ask(peer, field)


def test_a_page_of_ours_may_ask() -> None:
    """Should there be one."""
    own = ("Origin: http://10.0.0.5:8080", "User-Agent: Mozilla/5.0")
    assert ask("127.0.0.1", *own)
    assert ask("127.0.0.1", "Sec-Fetch-Site: same-origin", "User-Agent: Mozilla/5.0")


@pytest.mark.slow
def test_it_unregisters_lets_answers_end_and_ends_with_code_0() -> None:
    """Ask in the middle of an answer of about a second."""
    with EmbeddedKernel("127.0.0.1", 0) as kernel, ExitStack() as stack:
        options = ("--kernel_url", kernel.url, "--delay", "0.02")
        program = stack.enter_context(Program("debug", *options))
        until(lambda: "debug" in kernel.records.table())
        base = program.url.removesuffix("/chat")
        with call(program.url, said("x" * 50)) as response:
            assert response.read(1) == b"x"
            assert fetch(f"{base}/shutdown") == (200, '{"msg":"Shutting down..."}')
            until(lambda: kernel.records.table() == {})
            assert response.read() == b"x" * 49
        assert program.end() == 0


@pytest.mark.slow
def test_it_interrupts_a_setup_that_takes_long(tmp_path: Path) -> None:
    """Ask while the model loads."""
    path = tmp_path / "custom.py"
    path.write_text(
        "import time\n"
        "from kuwa_min import LLMExecutor\n"
        "class Slow(LLMExecutor):\n"
        "    def setup(self):\n"
        "        print('loading', flush=True)\n"
        "        time.sleep(60)\n",
        encoding="utf-8",
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ("--ignore_kernel", "--host", "127.0.0.1", "--port", str(port))
    with Program(str(path), *options) as program:
        program.wait_for("loading")
        url = f"http://127.0.0.1:{port}/shutdown"
        assert fetch(url, fields={"Origin": "http://evil.example"})[0] == 403
        assert fetch(url, fields={"Host": "evil.example"})[0] == 421
        assert fetch(url)[0] == 200
        assert program.end() == 0
