"""The real files of chatgpt and geminipro, with their SDKs, against services of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kuwa_min.chat import catalog
from tests.fakes.gemini import is_silent as gemini_is_silent
from tests.fakes.gemini import refuses as gemini_refuses
from tests.fakes.gemini.server import gemini_server
from tests.fakes.openai import is_silent as openai_is_silent
from tests.fakes.openai import refuses as openai_refuses
from tests.fakes.openai.server import openai_server
from tests.support.load.clients import Client
from tests.support.load.machines import HeavyFile
from tests.support.programs import START_TIMEOUT, TIMEOUT, Program, call, fetch, said, until
from tests.support.stub_build import below

pytestmark = pytest.mark.slow
KEY, USERS_KEY = "operator-0123456789", "client-9876543210"


class Cloud(NamedTuple):
    """One backend of a service, and what stands in for the service."""

    backend: str
    name: str  # its access code
    address: str  # the option that says where the service is
    options: tuple[str, ...]
    token: str  # the form's field with a client's key
    serve: Callable[..., AbstractContextManager[Any]]
    silent: Callable[[Any], None]
    wrong_key: Callable[[Any], None]
    bad_key: str
    no_key: str


CLOUDS = (
    Cloud(
        "geminipro",
        "gemini-pro",
        "--api_endpoint",
        (),
        "google_token",
        gemini_server,
        gemini_is_silent.before_the_head,
        gemini_refuses.always(400, gemini_refuses.WRONG_KEY),
        catalog.BAD_GOOGLE_KEY,
        catalog.NO_GOOGLE_KEY,
    ),
    Cloud(
        "chatgpt",
        "chatgpt",
        "--base_url",
        ("--use_third_party_api_key",),
        "third_party_token",
        openai_server,
        openai_is_silent.before_the_head,
        openai_refuses.always(
            401, {"error": {"message": "no such key", "code": "invalid_api_key"}}
        ),
        catalog.BAD_THIRD_PARTY_KEY,
        catalog.NO_THIRD_PARTY_KEY,
    ),
)


def fine(talk: Any) -> None:
    """Say which key came with the request."""
    talk.tell("Hello", ", 世界, ", talk.asked.key)


@pytest.fixture(scope="module", params=CLOUDS, ids=lambda cloud: cloud.backend)
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """Give each backend."""
    found: Cloud = request.param
    return found


@pytest.fixture(scope="module")
def file(cloud: Cloud, heavy: Callable[[str], HeavyFile]) -> Path:
    """Give its real file."""
    return heavy(cloud.backend).path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a home that is empty at first."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def start(
    cloud: Cloud, file: Path, home: Path, tmp_path: Path
) -> Callable[..., AbstractContextManager[Program]]:
    """Give what starts the file with a Kernel, and the operator's key in a file."""
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n", encoding="ascii")

    @contextlib.contextmanager
    def begin(url: str, *options: str, with_key: bool = True) -> Iterator[Program]:
        words = [cloud.backend, cloud.address, url, *cloud.options, *options, "--log", "DEBUG"]
        words += ["--embedded_kernel", "127.0.0.1:0", "--host", "127.0.0.1"]
        words += ["--api_key_file", str(key)] if with_key else []
        command = (sys.executable, str(file))
        with Program(*words, command=command, HOME=str(home), **no_proxies()) as program:
            program.wait_for(f"registered as {cloud.name}", START_TIMEOUT)
            yield program
            program.process.terminate()
            assert program.end() == 0
            assert "Traceback" not in program.log
            assert KEY not in program.log
            assert USERS_KEY not in program.log

    return begin


def no_proxies() -> dict[str, str]:
    """Return what keeps the environment of the tests out: its proxies, its keys."""
    empty = ("http_proxy", "https_proxy", "all_proxy", "OPENAI_API_KEY", "GOOGLE_API_KEY")
    return dict.fromkeys((*empty, *map(str.upper, empty[:3])), "")


def chat(program: Program, cloud: Cloud, text: str, language: str = "en", **form: str) -> str:
    """Have one chat through the Kernel; return the answer."""
    kernel, ids = program.kernel_url, {"name": cloud.name, "history_id": "1", "user_id": "7"}
    until(lambda: fetch(f"{kernel}/v1.0/worker/schedule", ids)[1] == "READY")
    fields = {"Accept-Language": language}
    with call(
        f"{kernel}/v1.0/chat/completions", {**ids, **said(text, **form)}, fields=fields
    ) as it:
        return it.read().decode()


def command_line(program: Program) -> str:
    """Return the command line in the list of processes."""
    path = Path(f"/proc/{program.process.pid}/cmdline")
    return path.read_bytes().decode() if path.exists() else ""


def test_the_file_speaks_of_itself_without_unpacking(
    cloud: Cloud, file: Path, tmp_path: Path
) -> None:
    """Its list, its help, what it needs: in an empty home, which stays empty."""
    variables = {"PATH": os.defpath, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    for words, expected in (
        (["--list"], f"{cloud.backend}"),
        ([cloud.backend, "--help"], cloud.address),
        (["--check"], "good: can unpack to"),
    ):
        done = subprocess.run(
            [sys.executable, str(file), *words],
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in done.stdout
        assert done.stderr == ""
    assert below(tmp_path) == []


def test_users_chat_with_the_operators_key_or_their_own(cloud: Cloud, start: Any) -> None:
    """Through the Kernel; no key is in the list of processes, in the log or at /status."""
    with cloud.serve(fine) as service, start(service.url) as program:
        assert chat(program, cloud, "a secret wish") == f"Hello, 世界, {KEY}"
        answer = chat(program, cloud, "hi", **{cloud.token: USERS_KEY})
        assert answer == f"Hello, 世界, {USERS_KEY}"
        status = fetch(f"{program.url.rpartition('/')[0]}/status")[1]
        assert json.loads(status)["model"]["service"].startswith("http://127.0.0.1:")
        assert KEY not in status + command_line(program)
        assert "secret wish" not in program.log


def test_a_stop_before_the_first_word_reaches_the_service(cloud: Cloud, start: Any) -> None:
    """Through the Kernel; the next chat is answered."""

    def once(talk: Any) -> None:
        (cloud.silent if not served else fine)(talk)

    served: list[str] = []
    with cloud.serve(once) as service, start(service.url) as program:
        client = Client(program.kernel_url, cloud.name, 5, "hi")
        client.start()
        until(lambda: asked(service))
        ids = {"history_id": "[5]", "user_id": "5"}
        assert fetch(f"{program.kernel_url}/v1.0/chat/abort", ids) == (200, "Success")
        assert service.gone.wait(TIMEOUT)
        client.join(TIMEOUT)
        assert client.text == catalog.STOPPED
        served.append("the silent one")
        assert chat(program, cloud, "again") == f"Hello, 世界, {KEY}"


def asked(service: Any) -> list[Any]:
    """Return the chats that a service was asked."""
    return [one for one in service.asked if "models" not in one.path or ":" in one.path]


def test_a_wrong_key_is_one_sentence(cloud: Cloud, start: Any) -> None:
    """In the user's language, with the cause in the log."""
    with cloud.serve(cloud.wrong_key) as service, start(service.url) as program:
        form = {cloud.token: USERS_KEY}
        assert chat(program, cloud, "hi", **form) == cloud.bad_key
        chinese = cloud.bad_key.render("zh")
        assert chat(program, cloud, "hi", "zh-TW,zh;q=0.9", **form) == chinese
        assert any(code in program.log for code in ("error 400", "401"))


def test_no_key_at_all_is_one_sentence(cloud: Cloud, start: Any) -> None:
    """It says where to enter one; with one it works."""
    with cloud.serve(fine) as service, start(service.url, with_key=False) as program:
        assert chat(program, cloud, "hi") == cloud.no_key
        assert chat(program, cloud, "hi", **{cloud.token: USERS_KEY}).endswith(USERS_KEY)


def test_a_service_that_is_not_there_is_one_sentence(cloud: Cloud, start: Any) -> None:
    """The executor is ready all the same."""
    with start("http://127.0.0.1:9") as program:
        assert fetch(f"{program.url.rpartition('/')[0]}/health")[0] == 204
        assert chat(program, cloud, "hi") == catalog.UNREACHABLE
        chinese = catalog.UNREACHABLE.render("zh")
        assert chat(program, cloud, "hi", "zh-TW") == chinese
        assert "ConnectionRefusedError" in program.log
