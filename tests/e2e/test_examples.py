"""Custom executors: the examples run as their readers would run them, and mistakes are one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import (
    MODULE,
    ROOT,
    TIMEOUT,
    Program,
    call,
    fetch,
    reserved_port,
    said,
    until,
)

pytestmark = pytest.mark.slow  # real processes, time limits or builds

MINE, KUWAS = "examples/my_executor.py", "examples/kuwa_executor.py"
ALONE = ("--ignore_kernel", "--host", "127.0.0.1", "--port", "0")
READY = r"ready: 1 slot\(s\) at (http://127\.0\.0\.1:\d+/chat)\s"
AT_ONCE = {"modelfile": json.dumps([{"name": "parameter", "args": "llm_pause 0"}])}
BROKEN = {  # what stands below the import, the exit code, and what the line says
    "no executor": ("answer = 42\n", 2, ["custom.py", "no subclass of LLMExecutor"]),
    "syntax": ("def broken(:\n", 1, ["custom.py", "line 2", "syntax"]),
    "indentation": ("\tindented = 1\n", 1, ["custom.py", "line 2", "indent"]),
    "missing library": (
        "import no_such_library.part\n",
        1,
        [
            "custom.py:2",
            "'no_such_library'",
            "pip install --target DIR no_such_library",
            "PYTHONPATH",
        ],
    ),
    "missing part of Kuwa": ("import kuwa.client\n", 1, ["custom.py:2", "kuwa.client"]),
    "an error in a function of a neighbour": (
        "import failing\ndef load(): failing.fail('x')\nload()\n",
        1,
        ["custom.py:4 in <module> > custom.py:3 in load > failing.py:1 in fail: KeyError: 'x'"],
    ),
    "an error": ("1 / 0\n", 1, ["custom.py:2", "ZeroDivisionError"]),
    "a long error": (
        "raise ValueError('two\\nlines')\n",
        1,
        ["custom.py:2", "ValueError", r"two\nlines"],
    ),
    "syntax of an imported file": ("import helper\n", 1, ["helper.py", "line 3", "syntax"]),
    "__init__": (
        "class Broken(LLMExecutor):\n    def __init__(self): raise RuntimeError('my own')\n",
        1,
        ["custom.py:3", "RuntimeError", "my own"],
    ),
    "__init__ and run": (
        "class Broken(LLMExecutor):\n    def __init__(self): raise RuntimeError('my own')\n"
        "Broken().run()\n",
        1,
        ["custom.py:3", "RuntimeError", "my own"],
    ),
    "extend_arguments": (
        "class Broken(LLMExecutor):\n"
        "    def extend_arguments(self, parser): parser.add_argument('--port')\n",
        1,
        ["custom.py", "--port", "conflicting"],
    ),
    "setup": (
        "class Broken(LLMExecutor):\n    def setup(self): raise OSError('no model here')\n",
        1,
        ["custom.py:3", "no model here"],
    ),
    "missing library in setup": (
        "class Broken(LLMExecutor):\n    def setup(self): import no_such_library\n",
        1,
        ["custom.py:3", "no_such_library"],
    ),
}
SPEAKING = '''
    async def llm_compute(self, history, modelfile):
        """Say something."""
        yield "spoken"
'''


def run(*arguments: str | Path, **environment: str) -> tuple[int, str, str]:
    """Run the program to its end; return code, output and errors."""
    done = subprocess.run(
        [*MODULE, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def custom(folder: Path, body: str, name: str = "custom.py") -> Path:
    """Write a user's file and return its path."""
    path = folder / name
    path.write_text(f"from kuwa_min import LLMExecutor\n{body}", encoding="utf-8")
    return path


def stop(program: Program) -> None:
    """Stop a program as a service manager does; it must end well and without a traceback."""
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == 0, program.log
    assert "Traceback" not in program.log
    assert program.lines[-1].endswith("stopped\n")


# -- the examples


def test_my_executor_answers_and_ends() -> None:
    """A chat streams text; SIGTERM ends the process with code 0."""
    with Program(MINE, *ALONE, "--pause", "0") as program:
        url = program.wait_for(READY)[1]
        with call(url, said("hello", "Hi!", "big wide 世界")) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert response.headers["Transfer-Encoding"] == "chunked"
            assert response.read().decode() == "BIG WIDE 世界 "
        stop(program)


def test_my_executor_obeys_the_modelfile_and_is_aborted_where_it_blocks() -> None:
    """Its own abort() ends a wait of minutes at once; the next chat is whole."""
    with Program(MINE, *ALONE, "--pause", "300") as program:
        url = program.wait_for(READY)[1]
        with call(url, said("one two three")) as response:
            assert response.read(4) == b"ONE "
            assert fetch(url, said("x")) == (429, '{"msg":"Processing another request."}')
            assert fetch(f"{url}/abort") == (200, '{"msg":"Aborted"}')
            assert response.read() == b""
        assert fetch(f"{url}/abort") == (200, '{"msg":"No process to abort"}')
        assert fetch(url, {**said("one two three"), **AT_ONCE}) == (200, "ONE TWO THREE ")
        stop(program)


def test_the_executor_written_for_kuwa_answers_is_aborted_and_ends() -> None:
    """It knows nothing of us; its flag and its abort() work as they did."""
    with Program(KUWAS, *ALONE, "--delay", "0.05", "--log", "debug") as program:
        url = program.wait_for(READY)[1]
        with call(url, said("no", "no", "x" * 1000)) as response:
            assert response.read(2) == b"xx"
            assert fetch(f"{url}/abort") == (200, '{"msg":"Aborted"}')
            assert set(response.read()) <= {ord("x")}
        program.wait_for("aborted")
        assert fetch(url, said("no", "no", "天地玄黃")) == (200, "天地玄黃")
        stop(program)


# Shapes of files that users wrote for Kuwa; each answers "header x, kernel y" or the like.
SHAPES = {
    "serve": (
        "from kuwa.executor.base_executor import BaseExecutor\n"
        "class Own(BaseExecutor):\n"
        "    async def serve(self, header, content):\n"
        "        yield f\"{header.get('Accept-Language')} {dict(content)['user_id']}\"\n",
        "zh_tw 7",
    ),
    "serve that goes on to llm_compute": (
        "from kuwa.executor import LLMExecutor\n"
        "class Own(LLMExecutor):\n"
        "    async def serve(self, header, content):\n"
        "        async for chunk in super().serve(header, content):\n"
        "            yield chunk.upper()\n"
        "    async def llm_compute(self, modelfile, history):\n"
        "        yield history[-1]['content'] + modelfile.parameters['_']['lang']\n",
        "HELLOZH_TW",
    ),
    "0.3.0": (
        "import json\n"
        "from kuwa.executor import LLMExecutor, modelfile\n"
        "class Own(LLMExecutor):\n"
        "    def setup(self):\n"
        "        if not self.LLM_name: self.LLM_name = 'own'\n"
        "    def prompt(self, parsed: modelfile): return parsed.override_system_prompt\n"
        "    async def llm_compute(self, data):\n"
        "        parsed = self.parse_modelfile(data.get('modelfile', '[]'))\n"
        "        history = parsed.messages + json.loads(data.get('input'))\n"
        "        yield f\"{self.prompt(parsed)} {[i['msg'] for i in history]}\"\n",
        "Be kind. ['hello']",
    ),
    "a coroutine": (
        "from kuwa.executor import LLMExecutor\n"
        "class Own(LLMExecutor):\n"
        "    async def llm_compute(self, history, modelfile): return 'whole'\n",
        "whole",
    ),
    "a plain generator": (
        "from kuwa.executor import LLMExecutor\n"
        "class Own(LLMExecutor):\n"
        "    def llm_compute(self, *, history, modelfile): yield from 'abc'\n",
        "abc",
    ),
    "names of the base class": (
        "from importlib.metadata import version\n"
        "from kuwa.executor import LLMExecutor\n"
        "class Own(LLMExecutor):\n"
        "    def setup(self):\n"
        "        self.facts = f'{self.get_reg_endpoint()[:17]} {type(self.port).__name__} '\n"
        "        self.facts += f'{self.executor_iface_version} {self.access_codes}'\n"
        "        self.host = self.port = self.parser = None\n"
        "    async def llm_compute(self, history, modelfile):\n"
        "        yield f\"{self.facts} {version('kuwa-executor')}\"\n",
        "http://127.0.0.1: int v1.0 ['own'] 0.4.0",
    ),
}


@pytest.mark.parametrize(("body", "answer"), SHAPES.values(), ids=SHAPES)
def test_a_file_of_any_shape_answers(body: str, answer: str, tmp_path: Path) -> None:
    """It says what it found."""
    path = tmp_path / "own.py"
    path.write_text(f"{body}if __name__ == '__main__':\n    Own().run()\n", encoding="utf-8")
    modelfile = json.dumps([{"name": "system", "args": "Be kind."}])
    with Program(str(path), *ALONE, "--access_code", "own") as program:
        form = said("hello", user_id="7", modelfile=modelfile)
        with call(program.wait_for(READY)[1], form, fields={"Accept-Language": "zh_tw"}) as found:
            assert found.read().decode() == answer
        stop(program)


def test_a_failure_in_the_midst_of_an_answer_is_a_line_that_leads_there(tmp_path: Path) -> None:
    """The log holds the way, without the user's words; the user reads an apology."""
    path = custom(
        tmp_path,
        "import logging\n"
        "class Own(LLMExecutor):\n"
        "    def find(self, key): return {'a': 1}[key]\n"
        "    async def llm_compute(self, history, modelfile):\n"
        "        yield str(self.find(history[-1]['content']))\n",
    )
    way = r"custom\.py:6 in llm_compute > custom\.py:4 in find: KeyError"
    with Program(str(path), *ALONE) as program:
        url = program.wait_for(READY)[1]
        assert fetch(url, said("my secret")) == (200, "Error occurred. Please consult support.")
        program.wait_for(rf"ERROR \S+: the backend failed: {way}\n")
        assert "my secret" not in program.log
        stop(program)
    with Program(str(path), *ALONE, "--log_content") as program:
        fetch(program.wait_for(READY)[1], said("my secret"))
        program.wait_for(rf"the backend failed: {way}: 'my secret'\n")
        stop(program)


@pytest.mark.parametrize(
    ("path", "option", "about"),
    [
        (MINE, "--pause PAUSE seconds between two words (default: 0.1)", "Say everything louder."),
        (KUWAS, "--delay DELAY Inter-token delay (default: 0.02)", "Repeat the last message"),
    ],
)
def test_the_help_shows_the_files_own_options_beside_ours(
    path: str, option: str, about: str
) -> None:
    """The file is the program's name, its class's docstring the description."""
    code, output, errors = run(path, "--help")
    words = " ".join(output.split())
    assert (code, errors) == (0, "")
    assert output.startswith(f"usage: {Path(path).name} ")
    assert about in words
    assert option in words
    assert "--kernel_url" in words


def test_a_mistake_in_the_files_own_options_is_argparses() -> None:
    """Usage, one line, code 2."""
    code, _, errors = run(MINE, "--pause", "long")
    assert code == 2
    assert errors.splitlines()[-1].startswith("my_executor.py: error: argument --pause: ")


def test_a_file_runs_without_our_command_line() -> None:
    """`python my_executor.py` is the same program."""
    command = (sys.executable, str(ROOT / MINE))
    with Program(*ALONE, "--pause", "0", command=command, PYTHONPATH=str(ROOT)) as program:
        assert fetch(program.wait_for(READY)[1], said("hi there")) == (200, "HI THERE ")
        stop(program)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system has no /proc")
def test_a_file_that_runs_without_our_command_line_opens_its_missing_streams() -> None:
    """No socket of a client becomes descriptor 0, 1 or 2, into which a library may print."""
    with reserved_port() as port:
        command = (sys.executable, str(ROOT / MINE), *ALONE[:-1], str(port))
        process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

        def answers() -> bool:
            try:
                return fetch(f"http://127.0.0.1:{port}/health")[0] == 204
            except ConnectionError:
                return False

        try:
            until(answers)
            opened = Path(f"/proc/{process.pid}/fd")
            targets = [str((opened / str(number)).readlink()) for number in range(3)]
            process.terminate()
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
            process.wait()
    assert targets == [os.devnull] * 3


# -- files of other authors


def test_a_file_need_not_call_run(tmp_path: Path) -> None:
    """Its last executor is run, with the options that follow the file's name."""
    path = custom(
        tmp_path,
        "class First(LLMExecutor):\n"
        "    def setup(self): raise RuntimeError('the wrong one')\n"
        f"class Last(LLMExecutor):{SPEAKING}",
    )
    with Program(str(path), *ALONE, "--access_code", "mine") as program:
        url = program.wait_for(READY)[1]
        assert fetch(url, said("x")) == (200, "spoken")
        assert 'executor_name="mine"' in fetch(url.replace("/chat", "/metrics"))[1]
        stop(program)


def test_a_files_own_init_sees_the_options_and_its_neighbours(tmp_path: Path) -> None:
    """self.args after super().__init__(), __file__, sys.argv and modules beside the file."""
    (tmp_path / "neighbour.py").write_text("WORD = 'neighbour'\n", encoding="utf-8")
    path = custom(
        tmp_path,
        "import os, sys\n"
        "import neighbour\n"
        "class Early(LLMExecutor):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.model = f'{neighbour.WORD} {self.args.model} {self.kernel_url}'\n"
        "        self.place = f'{os.path.basename(__file__)} {sys.argv[1:3]} {self.in_debug()}'\n"
        "    def extend_arguments(self, parser):\n"
        "        parser.add_argument('--model')\n"
        "    async def llm_compute(self, history, modelfile):\n"
        "        yield f'{self.model} {self.place} {self.log_level}'\n"
        "if __name__ == '__main__':\n"
        "    Early().run()\n",
    )
    with Program(str(path), "--model", "big", *ALONE, "--log", "debug") as program:
        status, text = fetch(program.wait_for(READY)[1], said("x"))
        assert (status, text) == (
            200,
            "neighbour big http://127.0.0.1:9000/ custom.py ['--model', 'big'] True DEBUG",
        )
        stop(program)


def test_a_file_may_use_private_names_of_its_own(tmp_path: Path) -> None:
    """A helper called _load is natural where a model is loaded; it replaces nothing of ours."""
    path = custom(
        tmp_path,
        "class Own(LLMExecutor):\n"
        "    def setup(self):\n"
        "        self._args = self._load()\n"
        "        self._slots = self._paths = self._host = None\n"
        "    def _load(self): return 'loaded'\n"
        "    def _answer(self): return f'{self._args} {self.args.log}'\n"
        "    async def llm_compute(self, history, modelfile):\n"
        "        yield self._answer()\n",
    )
    with Program(str(path), *ALONE) as program:
        url = program.wait_for(READY)[1]
        assert fetch(url, said("x")) == (200, "loaded INFO")
        stop(program)


def test_a_slow_abort_does_not_hit_the_next_chat(tmp_path: Path) -> None:
    """The slot is free again when both the answer and the file's abort() have ended."""
    path = custom(
        tmp_path,
        "import asyncio\n"
        "class Slow(LLMExecutor):\n"
        "    async def llm_compute(self, history, modelfile):\n"
        "        self.stop = False\n"
        "        for n in range(30):\n"
        "            yield 'x'\n"
        "            if self.stop: return\n"
        "            await asyncio.sleep(0.01)\n"
        "    async def abort(self):\n"
        "        await asyncio.sleep(0.1)\n"
        "        self.stop = True\n",
    )
    with Program(str(path), *ALONE) as program:
        url = program.wait_for(READY)[1]
        with call(url, said("first")) as response:
            assert response.read(1) == b"x"
            assert fetch(f"{url}/abort")[0] == 200
            response.read()
        assert fetch(url, said("second")) == (200, "x" * 30)
        stop(program)


@pytest.mark.slow
def test_an_abort_that_never_ends_does_not_silence_the_executor(tmp_path: Path) -> None:
    """The next chat waits for it for a while only."""
    path = custom(
        tmp_path,
        "import asyncio\n"
        "class Hanging(LLMExecutor):\n"
        "    async def llm_compute(self, history, modelfile):\n"
        "        yield 'spoken'\n"
        "        if history[-1]['content'] == 'wait':\n"
        "            await asyncio.sleep(3600)\n"
        "    async def abort(self): await asyncio.sleep(3600)\n",
    )
    with Program(str(path), *ALONE) as program:
        url = program.wait_for(READY)[1]
        with call(url, said("wait")) as response:
            assert response.read(6) == b"spoken"
            assert fetch(f"{url}/abort")[0] == 200
            assert response.read() == b""
        assert fetch(url, said("next")) == (200, "spoken")
        stop(program)


def test_a_reader_who_leaves_does_not_abort_the_neighbour(tmp_path: Path) -> None:
    """With several slots, the file's abort() is called only while no other one is busy."""
    path = custom(
        tmp_path,
        "import asyncio\n"
        "from pathlib import Path\n"
        "class Shared(LLMExecutor):\n"
        "    def setup(self): self.stop = False\n"
        "    async def llm_compute(self, history, modelfile):\n"
        "        yield 'x'\n"
        "        while not Path(__file__).with_name('gate').exists():\n"
        "            if self.stop: return\n"
        "            await asyncio.sleep(0.01)\n"
        "        yield 'y'\n"
        "    async def abort(self): self.stop = True\n",
    )
    with Program(str(path), *ALONE, "--concurrent_req_limit", "2") as program:
        url = program.wait_for(r"ready: 2 slot\(s\) at (\S+)")[1]
        with call(f"{url}/1", said("stays")) as staying:
            with call(url, said("leaves")) as leaving:
                assert leaving.read(1) == staying.read(1) == b"x"
            program.wait_for("endpoint 0: left by the reader")
            (tmp_path / "gate").touch()
            assert staying.read() == b"y"
        stop(program)


def test_a_generation_that_blocks_keeps_its_slot_to_itself(tmp_path: Path) -> None:
    """However many chats were given up meanwhile, the next one waits until it has ended."""
    path = custom(
        tmp_path,
        "import threading\n"
        "from pathlib import Path\n"
        "class Blocking(LLMExecutor):\n"
        "    running = 0\n"
        "    async def llm_compute(self, history, modelfile):\n"
        "        self.running += 1\n"
        "        yield f'{self.running} running'\n"
        "        if history[-1]['content'] == 'block':\n"
        "            print('blocks', flush=True)\n"
        "            while not Path(__file__).with_name('gate').exists():\n"
        "                threading.Event().wait(0.01)\n"
        "        self.running -= 1\n",
    )
    with Program(str(path), *ALONE) as program:
        url = program.wait_for(READY)[1]
        with call(url, said("block")) as response:
            assert response.read(9) == b"1 running"
            program.wait_for("blocks")
            assert fetch(f"{url}/abort") == (200, '{"msg":"Aborted"}')
            assert response.read() == b""
        with call(url, said("given up while it waits")) as response:
            assert fetch(f"{url}/abort") == (200, '{"msg":"Aborted"}')
            assert response.read() == b""
        with call(url, said("third")) as response:
            assert response.status == 200
            (tmp_path / "gate").touch()
            assert response.read() == b"1 running"
        stop(program)


def test_the_files_own_exit_code_is_kept(tmp_path: Path) -> None:
    """sys.exit in a file means what it says."""
    assert run(custom(tmp_path, "import sys\nsys.exit(3)\n")) == (3, "", "")


@pytest.mark.parametrize(("body", "code", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_line(body: str, code: int, words: list[str], tmp_path: Path) -> None:
    """It says which file, which line and why; never with a traceback."""
    (tmp_path / "helper.py").write_text("fine = 1\n\ndef broken(:\n", encoding="utf-8")
    (tmp_path / "failing.py").write_text("def fail(key): return {}[key]\n", encoding="utf-8")
    found, output, errors = run(custom(tmp_path, body), *ALONE)
    assert errors.count("\n") == 1, errors
    assert "error: " in errors
    assert not [word for word in words if word not in errors]
    assert (found, output) == (code, "")


@pytest.mark.parametrize("name", ["missing.py", "folder.py", "no/such/folder/missing.py"])
def test_a_file_that_is_not_there_is_one_line(name: str, tmp_path: Path) -> None:
    """A folder is no file either."""
    (tmp_path / "folder.py").mkdir()
    code, output, errors = run(tmp_path / name)
    assert (code, output) == (2, "")
    assert re.fullmatch(rf"\S.*: error: .*{re.escape(name)}.*\n", errors)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"x = 1\x00\n"])
def test_a_file_that_is_not_python_is_one_line(content: bytes, tmp_path: Path) -> None:
    """Bytes that no source can hold."""
    path = tmp_path / "custom.py"
    path.write_bytes(content)
    code, output, errors = run(path)
    assert (code, output) == (1, "")
    assert errors.count("\n") == 1
    assert "custom.py" in errors
    assert "None" not in errors
