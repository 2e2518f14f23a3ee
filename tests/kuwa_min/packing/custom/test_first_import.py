"""A custom executor in a file of its own: built, started without a network, and asked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.custom.first_import import import_once
from tests.support.programs import ROOT
from tests.support.small_files import make_wheel
from tests.support.stub_build import Done, start

needs_shiv = pytest.mark.skipif(not find_spec("shiv"), reason="build.py needs shiv==1.0.8")

WHEELS = ROOT / "build" / "wheels"
PAGE = (ROOT / "docs" / "custom-executors.md").read_text(encoding="utf-8")
COMMAND = re.findall(r"^\.venv/bin/python build\.py (examples/fetcher/.*)$", PAGE, re.MULTILINE)
PIPE = '''"""[Tool] Pipe."""
import os
import sys
sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from kuwa.executor import LLMExecutor, Modelfile
from src.words import shout
open("lang/en.txt").close()

class PipeExecutor(LLMExecutor):
    def extend_arguments(self, parser):
        parser.add_argument("--program", help="what to run")

if __name__ == "__main__":
    PipeExecutor().run()
'''
CHAT = r"""
ip link set lo up
"$1" -m http.server 8123 --bind 127.0.0.1 --directory "$3" >/dev/null 2>&1 & server=$!
"$1" "$2" --access_code x --ignore_kernel --port 9123 --page http://127.0.0.1:8123/p & program=$!
"$1" - <<'END'
import time, urllib.parse, urllib.request
def ask(path, form=None):
    data = urllib.parse.urlencode(form).encode() if form else None
    return urllib.request.urlopen(f"http://127.0.0.1:9123{path}", data).read().decode()
for _ in range(600):
    try:
        ask("/health")
        break
    except OSError:
        time.sleep(0.1)
print(ask("/chat", {"input": '[{"isbot": 0, "msg": "you"}]'}))
END
kill $program; wait $program; echo "ended with $?"; kill $server
"""
BACKEND = b"""
from kuwa_min import LLMExecutor
class Parrot(LLMExecutor):
    def extend_arguments(self, parser): parser.add_argument("--loud", help="say it loudly")
"""


FAILURES = {  # how a start ends -> what is said of it
    "sys.exit(3)": "mine cannot be started: it ends with exit code 3 and says nothing$",
    "print(f'{name}: error: {root}/key/tree/a.py: gone', file=sys.stderr); sys.exit(1)": (
        "mine cannot be started: kuwa-mine.pyz: error: a.py: gone$"
    ),
}
UNPACKS = """\
import os, subprocess, sys, time
name, root = os.path.basename(sys.argv[0]), os.path.abspath(sys.argv[3])
print(f"{name}: unpacked in 0.0 s", file=sys.stderr)
"""
WRITES = """\
os.mkdir(root + "/key")
late = "import os, sys, time\\n"
late += "for n in range(300): time.sleep(0.001), os.mkdir(f'{sys.argv[1]}/{n}')"
late = [sys.executable, "-c", late, root + "/key"]  # ends when that is removed
subprocess.Popen(late, stdout=-3, stderr=-3)
while not os.path.exists(root + "/key/9"): time.sleep(0.001)
"""


def test_a_start_that_fails_is_one_line(tmp_path: Path) -> None:
    """What it said last, if that is not about unpacking; what was made is removed."""
    file, other = tmp_path / "kuwa-mine.pyz", tmp_path / "kuwa-mine.pyz.old"
    other.touch()
    for end, words in FAILURES.items():
        file.write_text(UNPACKS + end, encoding="utf-8")
        file.with_name("kuwa-mine.pyz.sha256").touch()
        with pytest.raises(UsageError, match=words):
            import_once(file, "mine", sys.executable, lambda _: None)
        assert [*tmp_path.iterdir()] == [other]


def test_what_a_start_unpacked_is_removed_while_it_is_marked_durable(tmp_path: Path) -> None:
    """A process without parent still writes then."""
    file = tmp_path / "kuwa-mine.pyz"
    file.write_text(UNPACKS + WRITES, encoding="utf-8")
    import_once(file, "mine", sys.executable, lambda _: None)
    assert [*tmp_path.iterdir()] == [file]


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write these files below a folder; return it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def build(*words: object, output: Path, wheels: Path = WHEELS) -> Done:
    """Run build.py offline, with these wheels, in the project's root."""
    options = ["--output", output, "--no_index", "--find_links", wheels]
    options += ["--wheelhouse", output.parent / "wheelhouse"]
    command = [sys.executable, "build.py", *words, *options]
    return start(*command, cwd=ROOT, HOME=str(output.parent), PATH=os.environ["PATH"])


@pytest.fixture(scope="module")
def fetcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the file of an executor with requests, a module and a data file."""
    if not [*WHEELS.glob("requests-*.whl")]:
        pytest.skip("`make cloud` brings the wheels of requests")
    (command,) = COMMAND
    folder = tmp_path_factory.mktemp("fetcher")
    done = build(*command.split(), output=folder / "dist")
    assert done.code == 0, done.err
    return folder / "dist" / "kuwa-fetcher.pyz"


@needs_shiv
@pytest.mark.slow
def test_it_answers_in_a_namespace_without_network(fetcher: Path, tmp_path: Path) -> None:
    """With its libraries, modules and data, which the first start unpacks."""
    if subprocess.run(
        ["unshare", "-rn", "ip", "link"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no namespaces of networks here")
    (tmp_path / "p").write_text("a page")
    words = ["unshare", "-rn", "sh", "-c", CHAT, "sh", sys.executable, fetcher, tmp_path]
    path = os.environ["PATH"]
    done = start(*words, PATH=path, HOME=str(tmp_path), KUWA_MIN_ROOT=str(tmp_path / "root"))
    assert done.out.splitlines() == ["You said 'you'; the page begins:", "a page", "ended with 0"]


HEAD = "Available model executors:"


@needs_shiv
@pytest.mark.slow
def test_its_command_line_is_that_of_the_executor(fetcher: Path, tmp_path: Path) -> None:
    """With or without its name; documents and verbs are those of every file."""
    starts = {
        ("--help",): (0, "usage: kuwa-fetcher.pyz fetcher", "--page PAGE"),
        ("fetcher", "-h"): (0, "--page PAGE", "verbs:"),
        ("--port", "many"): (2, "", ""),
        ("--list",): (0, HEAD, "fetcher: [Tool] Fetch a page of your own network"),
        ("--version",): (0, "backend     fetcher", "executor    3 files"),
        ("--check",): (0, "good: needs Python", "unpacked in"),
        ("fetcher", "--check"): (0, "good: needs Python", ""),
        ("--page", "x", "--check"): (0, "good: needs Python", ""),
        ("--root", str(tmp_path), "--help"): (0, "--page PAGE", ""),
        ("verify",): (0, "3 files, whole", "as kuwa-fetcher.pyz.sha256 says"),
        ("cache",): (0, "(of this file)", ""),
        ("--sbom",): (0, '"name": "requests"', '"bom-ref": "executor:'),
        ("debug", "--help"): (0, "--delay", ""),
        ("fetch",): (2, "", ""),
    }
    for words, (code, *said) in starts.items():
        done = start(sys.executable, fetcher, *words, HOME=str(tmp_path))
        assert done.code == code, (words, done)
        assert all(one in done.out for one in said), (words, done)


@needs_shiv
@pytest.mark.slow
def test_its_lock_and_kit_are_those_of_every_file(fetcher: Path, tmp_path: Path) -> None:
    """The kit starts it by its name; the lock pins its libraries, and gives the same bytes."""
    kit, lock, words = tmp_path / "kit", tmp_path / "fetcher.lock", COMMAND[0].split()
    done = build(*words, "--lock", lock, "--kit", kit, output=tmp_path / "one")
    assert done.code == 0, done.err
    assert "requests==" in lock.read_text(encoding="ascii")
    done = build(*words, "--lock", lock, "--pyc", output=tmp_path / "two")
    assert done.code == 0, done.err
    assert (tmp_path / "one" / fetcher.name).read_bytes() == fetcher.read_bytes()
    done = start("sh", kit / "start.sh", "--help", HOME=str(tmp_path), PATH=os.environ["PATH"])
    assert "--page PAGE" in done.out
    assert "\nfetcher\n" in (kit / "kuwa.args").read_text(encoding="utf-8")


@needs_shiv
@pytest.mark.slow
def test_a_folder_without_libraries_runs_on_every_python(tmp_path: Path) -> None:
    """Kuwa's own way: main.py, modules in src/, files by a path relative to the folder."""
    files = {"main.py": PIPE, "src/words.py": "shout = str.upper\n", "lang/en.txt": "Hello"}
    write(tmp_path / "pipe", files)
    done = build(tmp_path / "pipe", output=tmp_path / "dist")
    assert (done.code, "FileNotFoundError" in done.err) == (2, True), done.err
    assert not [*(tmp_path / "dist").iterdir()]
    lock = tmp_path / "pipe.lock"
    done = build(tmp_path / "pipe", "--in_folder", "--lock", lock, output=tmp_path / "dist")
    assert done.code == 0, done.err
    assert f"pipe has no libraries, so {lock} is neither made nor followed" in done.err
    file = tmp_path / "dist" / "kuwa-pipe.pyz"
    assert "Python >=3.10, platform any" in start(sys.executable, file, "--version").out
    done = start(sys.executable, file.name, "-h", cwd=file.parent, HOME=str(tmp_path))
    assert (done.code, "--program" in done.out) == (0, True), done


@needs_shiv
@pytest.mark.slow
def test_what_cannot_be_imported_is_a_line_when_building(tmp_path: Path) -> None:
    """Libraries that have no wheel, that are missing, that do not work together."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "some", {"some/__init__.py": b"from other import gone\n"})
    make_wheel(wheels, "other", {"other/__init__.py": b""})
    base = "from kuwa.executor import LLMExecutor\nclass A(LLMExecutor): ...\n"
    for first, required, said in (
        ("import some", "some\nother", "ImportError: cannot import name 'gone'"),
        ("import some", "other", "mine.py:1 imports some, which no requirement brings"),
        ("", "absent", "absent"),
        ("", "-i https://me:secret@host/", "'-i https://***@host/' is not followed here"),
        ("from kuwa.client import KuwaClient", "other", "kuwa.client, which this file lacks"),
    ):
        write(tmp_path, {"mine.py": f"{first}\n{base}", "needs.txt": required})
        words = (tmp_path / "mine.py", "--requires", tmp_path / "needs.txt")
        done = build(*words, output=tmp_path / "dist", wheels=wheels)
        assert (done.code, said in done.err) == (2, True), done.err
        assert done.err.splitlines()[-1].startswith("build.py: error: ")
        assert not [*(tmp_path / "dist").glob("*.pyz*")]


@needs_shiv
@pytest.mark.slow
def test_a_package_may_bring_a_backend(tmp_path: Path) -> None:
    """By an entry point; the file lists it, and unpacks what it needs."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    points = b"[kuwa_min.backends]\nparrot = parrot_pack:Parrot\nbroken = parrot_pack.gone\n"
    files = {"parrot_pack/__init__.py": BACKEND, "parrots-1.0.dist-info/entry_points.txt": points}
    make_wheel(wheels, "parrots", files)
    base = "from kuwa.executor import LLMExecutor\nclass A(LLMExecutor): ...\n"
    write(tmp_path, {"mine.py": base, "needs.txt": "parrots"})
    words = (tmp_path / "mine.py", "--requires", tmp_path / "needs.txt")
    done = build(*words, output=tmp_path / "dist", wheels=wheels)
    assert done.code == 0, done.err
    file = tmp_path / "dist" / "kuwa-mine.pyz"
    home = {"HOME": str(tmp_path)}
    assert "parrot: parrots-1.0\n" in start(sys.executable, file, "--list", **home).out
    assert "--loud LOUD" in start(sys.executable, file, "parrot", "--help", **home).out
    assert start(sys.executable, file, "parrot", "--check", **home).code == 0
    done = start(sys.executable, file, "broken", **home)
    assert done.code == 1
    assert "broken of parrots 1.0 (parrot_pack.gone) cannot be loaded" in done.err
