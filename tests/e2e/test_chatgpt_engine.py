"""The real file of chatgpt between a Kernel and a real engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends._cloud.sentences import CUT_BY_LENGTH
from kuwa_min.chat.side_notes import SIDE_NOTE
from tests.support.load.machines import HeavyFile
from tests.support.models.real_engine import MISSING, WINDOW, Engine, real_engine
from tests.support.programs import START_TIMEOUT, Program, call, chat_through, fetch, said, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run the engine."""
    with real_engine(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture
def program(engine: Engine, heavy: Callable[[str], HeavyFile], tmp_path: Path) -> Iterator[Program]:
    """Run the file, with a Kernel in it."""
    command = (sys.executable, str(heavy("chatgpt").path))
    options = ["--base_url", engine.wait(), "--model", "tiny", "--context_window", str(WINDOW)]
    options += ["--embedded_kernel", "127.0.0.1:0", "--host", "127.0.0.1", "--temperature", "0"]
    with Program("chatgpt", *options, command=command, HOME=str(tmp_path)) as running:
        running.wait_for("registered as chatgpt", START_TIMEOUT)
        yield running


def test_a_user_gets_the_engines_answer(program: Program, engine: Engine) -> None:
    """Through the Kernel, twice the same; its end is a side note."""
    form = said("Hello", modelfile='[{"name": "parameter", "args": "llm_max_tokens 24"}]')
    answers = [fetch(program.url, form)[1] for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0].endswith(SIDE_NOTE.format(CUT_BY_LENGTH))
    through = chat_through(program.kernel_url, "chatgpt", "Hello")
    assert through.startswith(answers[0][:24])


def test_a_stop_reaches_the_engine(program: Program, engine: Engine) -> None:
    """Which says itself that its client left."""
    before = engine.log.count("Disconnected from client")
    with call(program.url, said("Hello")) as response:
        first = response.read(1)
        fetch(f"{program.url}/abort")
        answer = first + response.read()
    assert 0 < len(answer) < WINDOW
    until(lambda: engine.log.count("Disconnected from client") > before)
