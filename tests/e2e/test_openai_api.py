"""/v1 of whole programs: who may use it, and executors in files of their own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import openai
import pytest

from tests.support.programs import MODULE, ROOT, Program, fetch, post_json, said

pytestmark = pytest.mark.slow  # real processes
ALONE = ("--ignore_kernel", "--host", "127.0.0.1")
TOKEN = "a-token-that-nobody-guesses"
OLDER_FORM = """
import json
from kuwa_min import LLMExecutor


class Older(LLMExecutor):
    async def llm_compute(self, data):
        yield json.loads(data["input"])[-1]["msg"] + data["name"]
        self.count_tokens(read=5, written=1, cached=2)
        self.end_answer("length")


Older().run()
"""


def base_of(program: Program) -> str:
    """Return the address of the executor."""
    return program.url.removesuffix("/chat")


def test_a_token_of_a_file_opens_it_to_other_names(tmp_path: Path) -> None:
    """And stands in no line of the log; chats of a Kernel need none."""
    file = tmp_path / "tokens"
    file.write_text(f"# editors\n{TOKEN}\n", encoding="utf-8")
    options = ("--api", "on", "--api_token_file", str(file), "--delay", "0", "--log", "DEBUG")
    with Program("debug", *ALONE, *options) as program:
        base = base_of(program)
        status, refused = fetch(f"{base}/v1/models", fields={"Host": "executor:80"})
        assert (status, json.loads(refused)["error"]["code"]) == (401, "invalid_api_key")
        right = {"Host": "executor:80", "Authorization": f"Bearer {TOKEN}"}
        assert fetch(f"{base}/v1/models", fields=right)[0] == 200
        with openai.OpenAI(base_url=f"{base}/v1", api_key=TOKEN) as client:
            answer = client.chat.completions.create(
                model="debug", messages=[{"role": "user", "content": "Hello"}]
            )
        assert answer.choices[0].message.content == "Hello"
        assert fetch(program.url, said("Hello")) == (200, "Hello")
        assert "a chat of /v1: answered" in program.log
        assert TOKEN not in program.log


def test_it_can_be_switched_off() -> None:
    """Then there is nothing, for anyone."""
    with Program("debug", *ALONE, "--api", "off") as program:
        status, found = fetch(f"{base_of(program)}/v1/models")
    assert (status, set(json.loads(found))) == (404, {"error"})


def test_an_executor_that_reads_forms_answers_too(tmp_path: Path) -> None:
    """It counts, and says how its answers end."""
    file = tmp_path / "older.py"
    file.write_text(OLDER_FORM, encoding="utf-8")
    with Program(str(file), *ALONE) as program:
        body = {"model": "older", "messages": [{"role": "user", "content": "Hi "}]}
        status, found = post_json(f"{base_of(program)}/v1/chat/completions", body)
    assert status == 200
    assert found["choices"][0]["message"]["content"] == "Hi older"
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["prompt_tokens_details"]["cached_tokens"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--api", "on"), "--api on needs --api_token_file or --api_token"),
        (("--cors_origin", "*"), "--cors_origin * needs --api_token_file or --api_token"),
        (("--cors_origin", "https://a.example/x"), "an origin such as https://chat.example.org"),
        (("--api_token", "two words"), "--api_token holds no token"),
        (("--executor_path", "/v1/chat"), "is taken by the executor itself"),
    ],
)
def test_what_opens_it_without_a_token_is_refused(options: tuple[str, ...], said: str) -> None:
    """In one line, with exit code 2."""
    command = [*MODULE, "debug", *ALONE, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
