"""Check the command line: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kuwa_min import __version__, cli, registry
from tests.support.programs import ROOT, TIMEOUT, Program, chat_through, fetch, until

LIST = """\
Available model executors:

{}

Use "python -m kuwa_min [executor] --help" to get more information.
"""
BACKENDS = registry.backend_infos()
NAMES = ", ".join(sorted(BACKENDS))
GREEDY = """
from kuwa_min import LLMExecutor

REQUIRES = {"no_such_library": "no-such-library>=1"}

class Greedy(LLMExecutor):
    pass
"""
# Runs the program for each of some lists of arguments; prints the codes, writes what each says.
FORKS = """
import gc, inspect, json, os, sys
import backends.debug, kuwa_min.bundle.commands, kuwa_min.kernel.embedded
from kuwa_min.cli import main

gc.freeze()  # a child copies no page only to look for garbage at its end

codes = []
for number, arguments in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        for stream in (1, 2):
            os.dup2(os.open(f"{sys.argv[1]}/{number}.{stream}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv[:] = ["__main__.py", *arguments]
        sys.exit(main())
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def kuwa(*arguments: str) -> tuple[int, str, str]:
    """Run the program to its end; return code, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "kuwa_min", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=TIMEOUT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_list_describes_every_backend() -> None:
    """Print the list."""
    width = max(map(len, BACKENDS))
    lines = [f"{name:{width}}: {backend.summary}" for name, backend in BACKENDS.items()]
    assert kuwa("--list") == (0, LIST.format("\n".join(lines)), "")


def test_version_says_what_runs() -> None:
    """Print the version."""
    assert kuwa("--version") == (0, f"kuwa-min {__version__}\n", "")


MISTAKES = (
    ((), [f"name an executor: {NAMES} (--list describes them)"]),
    (("debg",), ["unknown executor 'debg'", NAMES, "did you mean debug?"]),
    (("huggingfase",), ["did you mean huggingface?"]),
    (
        ("varify",),
        [f"{NAMES}, kernel, chat, ask, verify, cache, unpack, and", "did you mean verify?"],
    ),
    (("nowhere.py",), ["nowhere.py: there is no such file"]),
    (("--nonsense",), ["the executor's name comes first, then --nonsense"]),
    (("--log", "DEBUG", "debug"), ["the executor's name comes first, then --log"]),
    (("debug", "--port", "70000"), ["--port", "0 to 65535", "70000"]),
    (("debug", "--port", "x"), ["--port", "'x'"]),
    (("debug", "--kernel_url", "ftp://x/"), ["--kernel_url", "http://127.0.0.1:9000/"]),
    (("debug", "--kernel_url", "http://[x/"), ["--kernel_url"]),
    (("debug", "--delay", "-1"), ["--delay", "at least 0"]),
    (("debug --port 1",), ["in kuwa.args on a line of its own"]),
    (("debug", "--delay", "nan"), ["--delay", "finite"]),
    (("debug", "--delay", "soon"), ["--delay", "a number", "'soon'"]),
    (("debug", "--concurrent_req_limit", "0"), ["at least 1"]),
    (("debug", "--drain_timeout", "-3"), ["--drain_timeout"]),
    (("debug", "--executor_path", "/health"), ["/health", "taken"]),
    (("debug", "--executor_path", "/a b"), ["--executor_path"]),
    (("debug", "--tls_cert", "x"), ["--tls_cert and --tls_key need each other"]),
    (("debug", "--log", "loud"), ["--log", "LOUD"]),
    (("debug", "-c", "missing.json"), ["missing.json: cannot be read"]),
    (("debug", "--ignore_kernel", "--embedded_kernel"), ["exclude each other"]),
    (("debug", "--conc", "3"), ["unrecognized arguments"]),
    (("kernel", "--port", "-1"), ["--port"]),
    (("_engine",), ["unknown executor '_engine'"]),
    (("verify",), ["this is not a built file but its sources: build one (python build.py)"]),
    (("cache",), ["this is not a built file"]),
    (("unpack", "folder"), ["this is not a built file"]),
    (("unpack",), ["DIR"]),
    (("verify", "--force"), ["unrecognized arguments: --force"]),
    (("--check",), ["this is not a built file"]),
    (("debug", "--check"), ["this is not a built file"]),
    (("--info",), ["this is not a built file"]),
    (("--sbom",), ["this is not a built file"]),
    (("--licenses",), ["this is not a built file"]),
)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, str]]:
    """Return how the program ends after each mistake, as `kuwa` does.

    One process imports it and forks for each: a process of its own would take as long as ten.
    """
    folder = tmp_path_factory.mktemp("mistakes")
    commands = json.dumps([arguments for arguments, _ in MISTAKES])
    command = [sys.executable, "-c", FORKS, str(folder)]
    done = subprocess.run(command, input=commands, text=True, cwd=ROOT, stdout=subprocess.PIPE)
    written = [
        [(folder / f"{number}.{stream}").read_text(encoding="utf-8") for stream in (1, 2)]
        for number in range(len(MISTAKES))
    ]
    return [(code, *texts) for code, texts in zip(json.loads(done.stdout), written, strict=True)]


@pytest.mark.parametrize(
    ("number", "parts"),
    [
        pytest.param(number, parts, id=" ".join(arguments) or "nothing")
        for number, (arguments, parts) in enumerate(MISTAKES)
    ],
)
def test_mistakes_end_with_code_2_and_a_line_that_helps(
    ended: list[tuple[int, str, str]], number: int, parts: list[str]
) -> None:
    """Make each mistake."""
    code, output, errors = ended[number]
    assert (code, output) == (2, "")
    for part in parts:
        assert part in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_a_tls_certificate_that_cannot_be_read_is_one_line() -> None:
    """Name files that are not there."""
    options = ("--tls_cert", "no.pem", "--tls_key", "no.pem")
    code, _, errors = kuwa("debug", "--ignore_kernel", *options)
    assert code == 2
    assert errors.count("\n") == 1
    assert "no.pem" in errors


def test_a_source_in_utf_16_is_named(tmp_path: Path) -> None:
    """Python speaks of null bytes."""
    file = tmp_path / "own.py"
    file.write_text(GREEDY, encoding="utf-16")
    code, _, errors = kuwa(str(file), "--help")
    assert (code, errors.count("\n")) == (1, 1)
    assert "; it is UTF-16-LE text: save it as UTF-8" in errors


def test_a_tls_certificate_that_is_no_pem_is_named(tmp_path: Path) -> None:
    """OpenSSL says [SSL] PEM lib, of whichever file."""
    file = tmp_path / "own.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\n", encoding="utf-16")
    options = ("--tls_cert", str(file), "--tls_key", str(file))
    code, _, errors = kuwa("debug", "--ignore_kernel", *options)
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.endswith(f"; {file} is no PEM text in UTF-8 (-----BEGIN ...)\n")


@pytest.mark.parametrize("backend", ["debug", pytest.param("dummy", marks=pytest.mark.slow)])
def test_help_shows_every_general_option_with_its_default(backend: str) -> None:
    """Print the help of a backend."""
    code, output, _ = kuwa(backend, "--help")
    text = " ".join(output.split())
    assert code == 0
    for option, default in {
        "--access_code": f"['{backend}']",
        "--version": "v1.0",
        "--ignore_kernel": "False",
        "--https": "False",
        "--host": "None",
        "--port": "None",
        "--executor_path": "/chat",
        "--kernel_url": "http://127.0.0.1:9000/",
        "--log": "INFO",
        "--concurrent_req_limit": "1",
        "--delay": "0.02",
        "-c FILE": "None",
    }.items():
        assert f"(default: {default})" in text[text.index(f" {option}") :]


def test_a_backend_whose_library_is_missing_names_the_file_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Add a backend that needs a library that does not exist."""
    import backends
    from kuwa_min.errors import UsageError

    (tmp_path / "greedy.py").write_text(GREEDY, encoding="utf-8")
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    with pytest.raises(UsageError) as error:
        cli.run_backend("greedy", "kuwa greedy", [])
    assert str(error.value) == (
        "greedy needs no_such_library, which this Python does not have; use the file "
        "kuwa-greedy.pyz, which `python build.py greedy` makes"
    )


def test_list_survives_a_reader_who_has_seen_enough() -> None:
    """Close the pipe early."""
    done = subprocess.run(
        f"{sys.executable} -m kuwa_min --list | true",
        shell=True,
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert done.stderr == b""


@pytest.mark.slow
def test_a_kernel_runs_alone_and_several_executors_attach() -> None:
    """Start a Kernel and two executors, chat with both, stop the Kernel."""
    with Program("kernel", "--port", "0") as kernel:
        url = kernel.kernel_url
        options = ("--kernel_url", url, "--delay", "0")
        with Program("debug", *options), Program("dummy", *options, "--access_code", "d", "e"):
            until(lambda: set(fetch(f"{url}/v1.0/worker/list")[1]) >= set("debug"))
            until(lambda: '"e"' in fetch(f"{url}/v1.0/worker/list")[1])
            assert chat_through(url, "debug", "hello") == "hello"
            assert "<<<WARNING>>>" in chat_through(url, "e", "hello")
        kernel.process.terminate()
        assert kernel.end() == 0


def test_an_embedded_kernel_serves_its_own_process() -> None:
    """Run executor and Kernel in one process."""
    options = ("--embedded_kernel", "127.0.0.1:0", "--delay=0", "--concurrent_req_limit", "3")
    with Program("debug", *options) as program:
        url = program.kernel_url
        program.wait_for("registered as debug")
        assert chat_through(url, "debug", "hello") == "hello"
        program.process.terminate()
        assert program.end() == 0
    assert "unregistered from the Kernel" in program.log
