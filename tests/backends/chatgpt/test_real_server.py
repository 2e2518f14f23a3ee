"""The chatgpt backend in front of a real engine."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends._cloud.sentences import CUT_BY_LENGTH
from backends.chatgpt import ChatgptExecutor
from kuwa_min.chat import catalog
from kuwa_min.chat.side_notes import SIDE_NOTE
from tests.support.cloud_chats import ask, start
from tests.support.models.real_engine import MISSING, WINDOW, Engine, real_engine
from tests.support.programs import TIMEOUT, Program, call, chat_through, fetch, said, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]


STRICT = """{% for message in messages -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{{ message.role }}: {{ message.content }}
{% endfor %}assistant:"""  # as Mistral's and Gemma's are


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run the server for all tests here."""
    with real_engine(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture(scope="module")
def url(engine: Engine) -> str:
    """Wait for the server."""
    return engine.wait()


@pytest.fixture
def talks(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatgptExecutor]:
    """Give a backend that asks the server."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    options = ("--model", "tiny", "--temperature", "0", "--context_window", WINDOW)
    executor = start(ChatgptExecutor, "--base_url", url, *options)
    yield executor
    executor.client.close()


def test_a_real_answer_comes_in_pieces_and_says_why_it_ends(talks: ChatgptExecutor) -> None:
    """As many tokens as were asked for; a token of this model is a character."""
    answer = ask(talks, "Hello", llm_max_tokens="24")
    text, note = answer[:24], answer[24:]
    assert note == SIDE_NOTE.format(CUT_BY_LENGTH)
    assert ask(talks, "Hello", llm_max_tokens="8") == text[:8] + note


def test_a_long_history_fits(talks: ChatgptExecutor) -> None:
    """Without a tokenizer; this one makes a token of each byte, so the window says a third."""
    talks.args.context_window = WINDOW // 3
    history = [f"{n} " * 50 for n in range(6)]
    answer = ask(talks, *history, "so?", llm_max_tokens="8")
    assert answer.endswith(SIDE_NOTE.format(CUT_BY_LENGTH))
    assert ask(talks, "long " * 400) == catalog.TOO_LONG


def test_a_stop_reaches_the_engine(engine: Engine, url: str) -> None:
    """Through the whole program: the server says itself that its client left."""
    options = ("--base_url", url, "--model", "tiny", "--ignore_kernel", "--host", "127.0.0.1")
    with Program("chatgpt", *options, "--context_window", str(WINDOW)) as program:
        program.wait_for("ready")
        form = said("Hello", modelfile='[{"name": "parameter", "args": "llm_max_tokens 450"}]')
        before = engine.log.count("Disconnected from client")
        with call(program.url, form) as response:
            first = response.read(1)
            fetch(f"{program.url}/abort")
            answer = first + response.read()
        assert 0 < len(answer) < 450
        until(lambda: engine.log.count("Disconnected from client") > before)


def test_users_reach_it_through_a_kernel(url: str) -> None:
    """The Kernel in the same process: two chats under one name."""
    options = ("--base_url", url, "--model", "tiny", "--max_tokens", "8", "--temperature", "0")
    kernel = ("--embedded_kernel", "127.0.0.1:0", "--concurrent_req_limit", "2")
    with Program("chatgpt", *options, *kernel) as program:
        program.wait_for("ready")
        answers = {chat_through(program.kernel_url, "chatgpt", "Hello", n) for n in (1, 2)}
        (answer,) = answers
        assert answer.endswith(SIDE_NOTE.format(CUT_BY_LENGTH))


def test_the_engine_is_the_one_that_was_asked(url: str, talks: ChatgptExecutor) -> None:
    """Its list of models has ours, so there is no warning."""
    with urllib.request.urlopen(f"{url}/models", timeout=TIMEOUT) as answer:
        assert b'"id":"tiny"' in answer.read()
    assert talks.args.model == "tiny"


def test_a_strict_template_gets_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The real template refuses a system prompt, and a chat that the assistant begins."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with real_engine(tmp_path, STRICT) as running:
        options = ("--model", "tiny", "--temperature", "0", "--max_tokens", "8")
        executor = start(ChatgptExecutor, "--base_url", running.wait(), *options)
        plain = ask(executor, "S\n\nHello")
        assert plain.endswith(SIDE_NOTE.format(CUT_BY_LENGTH))
        assert ask(executor, "Hello", system="S") == plain
        greeted = ask(executor, "Hello", system="S", message='assistant "Hi."')
        assert greeted.endswith(SIDE_NOTE.format(CUT_BY_LENGTH))
        assert caplog.text.count("it is asked in other words") == 2
        executor.client.close()
