"""The launcher: one line for an old Python, the program for every other, however it is started."""

from __future__ import annotations

import ast
import marshal
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import kuwa_min.launch
from kuwa_min import cli
from tests.support.pythons import python_of
from tests.support.saved_as import SAVED_AS

SOURCES = Path(kuwa_min.launch.__file__).parent
LAUNCHER = (SOURCES / "launch.py").read_text(encoding="utf-8")
READS_ARGUMENTS = (
    "errors.py",
    "options/__init__.py",
    "options/text_file.py",
    "bundle/__init__.py",
    "bundle/trust.py",
)
MAIN = "# -*- coding: utf-8 -*-\nimport kuwa_launch\nkuwa_launch.main()\n"
PROGRAM = """
import sys

def main():
    import os
    os.chdir("/")
    from kuwa_min import late
    print(sys.path[0], sys.argv, late.HERE)
    return 7
"""
PLACE = """
import inspect

def main():
    from kuwa_min import late
    print(late.__file__, inspect.getsource(late).strip())
"""


def rest_slow(rows: Iterable[Any], *fast: Any) -> list[Any]:
    """Return the rows of a table, all slow but those of a kind of their own: each is a start."""
    return [
        row if row in fast else pytest.param(*as_tuple(row), marks=pytest.mark.slow) for row in rows
    ]


def as_tuple(row: Any) -> tuple[Any, ...]:
    """Return the arguments of a row, which may be a single one."""
    return row if isinstance(row, tuple) else (row,)


NEWER = rest_slow(("3.10", "3.11", "3.12", "3.13", "3.14"), "3.10")
OLDER = rest_slow(("2.7", "3.6", "3.7", "3.8", "3.9"), "2.7", "3.9")
FLAGS = rest_slow(
    (["-I"], ["-S"], ["-IS"], ["-E", "-s"], ["-O"], ["-B"], ["-OO"]), ["-IS"], ["-OO"]
)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Make a file of the launcher and a program that prints how it was started."""
    path = tmp_path / "kuwa-some.pyz"
    with path.open("wb") as file:
        file.write(f"#!{sys.executable}\n".encode())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("__main__.py", MAIN)
            made.writestr("kuwa_launch.py", LAUNCHER)
            made.writestr("site-packages/kuwa_min/__init__.py", "")
            made.writestr("site-packages/kuwa_min/late.py", "HERE = 'late'")
            for name in READS_ARGUMENTS:
                made.write(SOURCES / name, f"site-packages/kuwa_min/{name}")
            made.writestr("site-packages/kuwa_min/cli.py", PROGRAM)
    path.chmod(0o755)
    return path


def start(*command: object, cwd: Path | None = None, **variables: str) -> tuple[int, str, str]:
    """Run a command with an empty environment; return code, standard output, standard error."""
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **variables}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def told(archive: Path, *arguments: str, name: str | None = None) -> tuple[int, str, str]:
    """Return what the program of this archive prints when started under this name."""
    argv = [name or str(archive), *arguments]
    return 7, f"{archive}/site-packages {argv} late\n", ""


@pytest.mark.parametrize("minor", NEWER)
def test_a_newer_python_runs_the_program(minor: str, archive: Path) -> None:
    """Every supported Python starts the program and exits with its code."""
    assert start(python_of(minor), "-Werror", archive, "a", "b") == told(archive, "a", "b")


@pytest.mark.parametrize("minor", OLDER)
def test_an_older_python_is_refused_in_one_line(minor: str, archive: Path) -> None:
    """Needed, found, and what to do; no traceback; exit code 3."""
    python = python_of(minor)
    code, output, error = start(python, archive, "debug")
    assert (code, output) == (3, "")
    line = (
        rf"{re.escape(str(archive))} needs Python 3\.10 or newer; this is Python {minor}\.\d+, "
        rf"at .*/python.*; start it with a newer one, for example: python3\.10 \S+\n"
    )
    assert re.fullmatch(line, error)


def add_bytecode(archive: Path, end: int | None = None) -> None:
    """Add a block of bytecode that differs from its source, or the block's first bytes."""
    code = compile("HERE = 'block'", "site-packages/kuwa_min/late.py", "exec")
    with zipfile.ZipFile(archive, "a") as made:
        block = marshal.dumps({"kuwa_min.late": code})
        summed = zlib.crc32(block).to_bytes(4, "big") + block
        made.writestr(kuwa_min.launch.bytecode_name(), summed[:end])


def test_bytecode_for_this_python_is_used(archive: Path) -> None:
    """A module of the block comes from the block, the others from their sources."""
    add_bytecode(archive)
    code, output, error = start(sys.executable, "-Werror", archive)
    assert (code, output.split()[-1], error) == (7, "block", "")


def test_activation_has_a_block_of_its_own(archive: Path) -> None:
    """Its modules are imported from it."""
    early = marshal.dumps(
        {"kuwa_min.late": compile("HERE = 'early'", "site-packages/kuwa_min/late.py", "exec")}
    )
    with zipfile.ZipFile(archive, "a") as made:
        name = kuwa_min.launch.bytecode_name(kuwa_min.launch.EARLY)
        made.writestr(name, zlib.crc32(early).to_bytes(4, "big") + early)
    code, output, error = start(sys.executable, "-Werror", archive)
    assert (code, output.split()[-1], error) == (7, "early", "")


@pytest.mark.parametrize("end", [0, 3, 4, -1])
def test_bytecode_that_is_not_what_was_built_is_never_run(archive: Path, end: int) -> None:
    """Damaged bytecode can do anything: one line, exit code 1."""
    add_bytecode(archive, end)
    remedy = "copy it again, and compare with its .sha256 (sha256sum -c)"
    expected = (1, "", f"{archive} is damaged: {remedy}\n")
    assert start(sys.executable, archive) == expected


@pytest.mark.parametrize("name", ["cli.py", "late.py"])
def test_a_source_that_is_not_what_was_built_is_one_line(archive: Path, name: str) -> None:
    """Every Python but that of the bytecode compiles sources."""
    with zipfile.ZipFile(archive) as made:
        entry = made.getinfo(f"site-packages/kuwa_min/{name}")
    data = bytearray(archive.read_bytes())
    data[entry.header_offset + 30 + len(entry.filename)] ^= 6  # the kind of its deflate block
    archive.write_bytes(data)
    remedy = "copy it again, and compare with its .sha256 (sha256sum -c)"
    assert start(sys.executable, archive) == (1, "", f"{archive} is damaged: {remedy}\n")


@pytest.mark.parametrize(("module", "is_damaged"), [("kuwa_min.gone", True), ("gone", False)])
def test_a_module_that_is_missing_is_damage_if_it_is_ours(
    archive: Path, module: str, is_damaged: bool
) -> None:
    """A Python without one of its own modules has a traceback to show."""
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr("site-packages/kuwa_min/cli/__init__.py", f"import {module}")
    code, _, error = start(sys.executable, archive)
    assert (code, f"{archive} is damaged" in error) == (1, is_damaged)
    assert ("Traceback" in error) is not is_damaged


def test_a_module_of_the_block_knows_its_file(archive: Path) -> None:
    """__file__ is the path inside the archive, where its source can be read."""
    add_bytecode(archive)
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr("site-packages/kuwa_min/cli/__init__.py", PLACE)
    place = f"{archive}/site-packages/kuwa_min/late.py HERE = 'late'\n"
    assert start(sys.executable, archive) == (0, place, "")


@pytest.mark.parametrize("minor", NEWER)
def test_bytecode_for_another_python_is_ignored_in_silence(minor: str, archive: Path) -> None:
    """Every other minor reads the sources."""
    if minor == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("this is the Python of the block")
    add_bytecode(archive)
    assert start(python_of(minor), "-Werror", archive) == told(archive)


def test_an_unpacked_archive_runs(archive: Path, tmp_path: Path) -> None:
    """A user may unzip the file and start the folder."""
    add_bytecode(archive)
    with zipfile.ZipFile(archive) as made:
        made.extractall(tmp_path / "folder")
    assert start(sys.executable, tmp_path / "folder") == told(tmp_path / "folder")


def test_the_refusal_names_this_python() -> None:
    """It names the version that runs it."""
    found = ".".join(map(str, sys.version_info[:3]))
    assert f"this is Python {found}, at {sys.executable};" in kuwa_min.launch.refusal({})


def test_the_refusal_of_a_file_with_libraries_names_their_python() -> None:
    """A newer one is no remedy."""
    line = kuwa_min.launch.refusal({"python": ["3.12"], "serves": ["some"]})
    assert " needs Python 3.12; this is Python " in line
    assert line.endswith(f"for example: python3.12 {sys.argv[0]}")


@pytest.mark.parametrize("flags", FLAGS)
def test_the_flags_of_python_do_not_matter(flags: list[str], archive: Path) -> None:
    """Isolated, without site, optimised: it starts."""
    assert start(sys.executable, *flags, archive) == told(archive)


def test_the_file_is_a_program(archive: Path) -> None:
    """It starts as ./kuwa-some.pyz, and still finds itself after a change of directory."""
    expected = told(archive, "x", name="./kuwa-some.pyz")
    assert start("./kuwa-some.pyz", "x", cwd=archive.parent) == expected


def test_a_relative_path_survives_a_change_of_directory(archive: Path) -> None:
    """A module imported late is found although the path on the command line was relative."""
    folder = archive.parent
    for cwd, name in ((folder, archive.name), (folder.parent, f"{folder.name}/{archive.name}")):
        assert start(sys.executable, name, cwd=cwd) == told(archive, name=name)


def test_a_renamed_or_linked_file_starts(archive: Path) -> None:
    """Neither the file's name nor a symbolic link to it matters."""
    renamed = archive.rename(archive.with_name("program"))
    link = archive.with_name("link.pyz")
    link.symlink_to(renamed)
    assert start(sys.executable, renamed) == told(renamed)
    assert start(link) == told(link)


def test_odd_directories_do_not_matter(archive: Path) -> None:
    """Spaces and characters beyond ASCII in the path are fine, in any locale."""
    folder = archive.parent / "with spaces é 資料夾"
    folder.mkdir()
    moved = archive.rename(folder / archive.name)
    assert start(sys.executable, moved) == told(moved)
    assert start(sys.executable, moved, LC_ALL="C")[0] == 7


def test_the_archive_comes_before_pythonpath(archive: Path, tmp_path: Path) -> None:
    """A package of our name on PYTHONPATH does not replace the one in the file."""
    impostor = tmp_path / "path" / "kuwa_min"
    impostor.mkdir(parents=True)
    (impostor / "__init__.py").write_text("raise SystemExit('the wrong one')", encoding="utf-8")
    assert start(sys.executable, archive, PYTHONPATH=str(impostor.parent)) == told(archive)


def test_the_root_of_the_archive_leaves_the_path(archive: Path, monkeypatch) -> None:
    """Only site-packages stands on sys.path, in the root's place."""
    monkeypatch.setattr(sys, "path", [str(archive), "/somewhere"])
    monkeypatch.setattr(kuwa_min.launch, "__file__", f"{archive}/kuwa_launch.pyc")
    kuwa_min.launch.use_site_packages()
    assert sys.path == [f"{archive}/site-packages", "/somewhere"]


def test_nothing_is_written_at_home(archive: Path, tmp_path: Path) -> None:
    """An empty HOME that cannot be written stays empty."""
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    assert start(sys.executable, archive, HOME=str(home)) == told(archive)
    assert not list(home.iterdir())


# -- kuwa.args

ECHO = """
import sys

def main():
    print(sys.argv[1:])
    return 7
"""
GIVEN = ["some", "--port", "1"]
ARGUMENTS = (
    ("some\n--port\n1\n", GIVEN),
    ("some\r\n--port\r\n1\r\n", GIVEN),
    ("some\n--port\n1", GIVEN),
    ("# first\n\n  some  \n# --log\n# DEBUG\n\t--port\n\n1\n", GIVEN),
    ("some\n--model_path\n{{here}}/my model\n", ["some", "--model_path", "{here}/my model"]),
    ("some\n--system\n說 # 中文\n", ["some", "--system", "說 # 中文"]),
    ("", []),
    ("# nothing\n", []),
)


@pytest.fixture
def echo(archive: Path) -> Path:
    """Make the file's program print its arguments."""
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr("site-packages/kuwa_min/cli/__init__.py", ECHO)
    return archive


def arguments_of(archive: Path, *words: str, **variables: str) -> tuple[list[str], str]:
    """Return the program's arguments, and standard error."""
    code, output, error = start(sys.executable, "-Werror", archive, *words, **variables)
    assert code == 7, error
    return ast.literal_eval(output), error


def give(archive: Path, text: str | bytes) -> None:
    """Write the arguments beside the file."""
    data = text if isinstance(text, bytes) else text.encode()
    archive.with_name("kuwa.args").write_bytes(data)


@pytest.mark.parametrize(("text", "expected"), rest_slow(ARGUMENTS, *ARGUMENTS[3:5]))
def test_the_arguments_beside_the_file_apply_when_there_are_none(
    echo: Path, text: str, expected: list[str]
) -> None:
    """An argument a line; comments, empty lines and the ends of lines do not matter."""
    give(echo, text.replace("{{", "{").replace("}}", "}"))
    words = [word.replace("{here}", str(echo.parent)) for word in expected]
    assert arguments_of(echo) == (words, "")


WORDS = (
    (("some",), GIVEN),
    (("some", "--port", "2"), [*GIVEN, "--port", "2"]),
    (("some", "--help"), [*GIVEN, "--help"]),
    (("other",), ["other"]),
    (("other", "some"), ["other", "some"]),
    (("mine.py", "--port", "2"), ["mine.py", "--port", "2"]),
    (("verify",), ["verify"]),
    (("cache", "--clean"), ["cache", "--clean"]),
    (("--version",), ["--version"]),
    (("--list",), ["--list"]),
)


@pytest.mark.parametrize(("words", "expected"), rest_slow(WORDS, WORDS[1], WORDS[6]))
def test_they_are_for_one_executor_and_the_command_line_wins(
    echo: Path, words: tuple[str, ...], expected: list[str]
) -> None:
    """What comes later wins; verbs and other executors get none of them."""
    give(echo, "\n".join(GIVEN))
    assert arguments_of(echo, *words) == (expected, "")


def test_arguments_that_are_no_text_are_told_and_not_read(echo: Path) -> None:
    """The rest goes on."""
    give(echo, "some\n--system\n中文\n".encode("cp950"))
    words, error = arguments_of(echo, "some")
    assert words == ["some"]
    assert error.startswith(f"{echo.with_name('kuwa.args')} has no effect: it is not UTF-8 text")
    assert "line 3 seems to be in Big5" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("whose", [0, 12345])
def test_arguments_that_another_user_could_write_are_told_and_not_read(
    echo: Path, whose: int
) -> None:
    """As beside a file in /tmp, where all may write and only the file itself is its owner's."""
    give(echo, "\n".join(GIVEN))
    path = echo.with_name("kuwa.args")
    if whose:
        if os.geteuid():
            pytest.skip("only root can give files to others")
        os.chown(path, whose, whose)
        reason = f"{path} belongs to user {whose}"
    else:
        path.chmod(0o666)
        reason = f"others may write to {path}"
    words, error = arguments_of(echo)
    assert (words, error.splitlines()[1:]) == ([], [])
    assert error.startswith(f"{path} has no effect: {reason}; give it")
    if whose:  # who owns the file itself decides what runs
        os.chown(echo, whose, whose)
        assert arguments_of(echo) == (GIVEN, "")


@pytest.mark.parametrize(("umask", "expected"), [(0, 0o022), (0o002, 0o022), (0o077, 0o077)])
def test_no_other_user_may_write_to_what_the_program_makes(
    archive: Path, umask: int, expected: int
) -> None:
    """Libraries write bytecode, which the next start runs."""
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr(
            "site-packages/kuwa_min/cli/__init__.py",
            "import os\ndef main():\n    print(os.umask(0))\n    return 7\n",
        )
    command = ["sh", "-c", f'umask {umask:o}; exec "$@"', "-", sys.executable, archive]
    assert start(*command) == (7, f"{expected}\n", "")


def test_an_interrupted_start_ends_without_a_traceback(archive: Path) -> None:
    """Ctrl-C comes while the program is imported, before it can handle any."""
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr(
            "site-packages/kuwa_min/cli/__init__.py",
            "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n",
        )
    assert start(sys.executable, archive) == (130, "", "")


def test_arguments_that_cannot_be_read_are_told(echo: Path) -> None:
    """A start without them would be another one."""
    echo.with_name("kuwa.args").mkdir()
    words, error = arguments_of(echo)
    assert (words, error.endswith("it cannot be read: Is a directory\n")) == ([], True)


@pytest.mark.parametrize("saved_as", rest_slow(SAVED_AS, "utf-16-le"))
def test_arguments_may_be_saved_on_windows(echo: Path, saved_as: str) -> None:
    """Whatever the encoding and the ends of lines."""
    give(echo, SAVED_AS[saved_as]("some\n--system\n中文\n"))
    variables = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8"}
    assert arguments_of(echo, **variables) == (["some", "--system", "中文"], "")


def test_arguments_are_utf_8_in_every_locale(echo: Path) -> None:
    """A server may have set none."""
    give(echo, "some\n--system\n中文\n")
    words, error = arguments_of(echo, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="utf-8")
    assert (words, error) == (["some", "--system", "中文"], "")


def test_arguments_are_looked_for_beside_the_file_alone(echo: Path, tmp_path: Path) -> None:
    """Not in the current folder, and not inside the file."""
    with zipfile.ZipFile(echo, "a") as made:
        made.writestr("kuwa.args", "some\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kuwa.args").write_text("some\n", encoding="utf-8")
    assert start(sys.executable, echo, cwd=elsewhere) == (7, "[]\n", "")


# -- the entry "target"

TARGET = "libraries 0123 \npython 3.12\nserves some\n"
PROBE = """
import os, sys

def main():
    print(*(name for name in sys.modules if name.startswith("kuwa_min.")))
    return int(os.environ.get("CODE", 7))
"""
LIBRARIES = """
def activate(archive, target, argv):
    import sys
    print(archive, sorted(target.items()), sys.argv[1:])
    return Libraries()

class Libraries:
    def restart_if_repaired(self):
        print("repaired?")
"""


@pytest.fixture
def heavy(archive: Path) -> Path:
    """Make a file with the entry "target" and an activation that prints its arguments."""
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr("target", TARGET)
        made.writestr("site-packages/kuwa_min/bundle/activate.py", LIBRARIES)
        made.writestr("site-packages/kuwa_min/cli/__init__.py", PROBE)
    return archive


def test_libraries_are_activated_before_the_program(heavy: Path) -> None:
    """With the default arguments; a program that fails leads to a repair."""
    give(heavy, "some\n--port\n1\n")
    code, output, error = start(sys.executable, "-Werror", heavy)
    facts = [("libraries", ["0123"]), ("python", ["3.12"]), ("serves", ["some"])]
    lines = [
        f"{heavy} {facts} {GIVEN}",
        "kuwa_min.bundle kuwa_min.bundle.trust kuwa_min.options kuwa_min.errors "
        "kuwa_min.options.text_file kuwa_min.bundle.activate kuwa_min.cli",
        "repaired?",
    ]
    assert (code, output.splitlines(), error) == (7, lines, "")


def test_a_start_that_succeeds_is_not_repaired(heavy: Path) -> None:
    """That would delay its end."""
    code, output, _ = start(sys.executable, heavy, CODE="0")
    assert (code, "repaired?" in output) == (0, False)


@pytest.mark.parametrize("minor", OLDER)
def test_an_older_python_learns_which_one_the_libraries_need(minor: str, heavy: Path) -> None:
    """One line, code 3, as without libraries."""
    code, output, error = start(python_of(minor), heavy, "some")
    assert (code, output, error.count("\n")) == (3, "", 1)
    assert f"{heavy} needs Python 3.12; this is Python {minor}." in error
    assert error.endswith(f"for example: python3.12 {heavy}\n")


def test_a_file_without_libraries_imports_nothing_for_them(archive: Path) -> None:
    """Not even the cache is looked for."""
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr("site-packages/kuwa_min/bundle/activate.py", "raise SystemExit('imported')")
        made.writestr("site-packages/kuwa_min/cli/__init__.py", PROBE)
    assert start(sys.executable, archive) == (7, "kuwa_min.cli\n", "")


@pytest.mark.parametrize("text", ["python 3.9\n", "\n\n", TARGET])
def test_an_unpacked_file_takes_no_target_from_the_current_folder(
    archive: Path, tmp_path: Path, text: str
) -> None:
    """A file called target, which a build folder may well have, is not ours."""
    with zipfile.ZipFile(archive) as made:
        made.extractall(tmp_path / "folder")
    (tmp_path / "target").write_text(text, encoding="ascii")
    done = start(sys.executable, tmp_path / "folder", cwd=tmp_path)
    assert done == told(tmp_path / "folder")


PACKED = {"executor": ["id", "mine", "mine.py"], "serves": ["mine"]}
NAMED = (
    ((), ["mine"]),
    (("--port", "1"), ["mine", "--port", "1"]),
    (("--help",), ["mine", "--help"]),
    (("--version", "v2"), ["mine", "--version", "v2"]),
    (("--root", "/r"), ["--root", "/r", "mine"]),
    (("--root=/r", "--port", "1"), ["--root=/r", "mine", "--port", "1"]),
    (("--root", "/r", "--list"), ["--root", "/r", "--list"]),
    (("--version",), ["--version"]),
    (("--check",), ["--check"]),
    (("verify",), ["verify"]),
    (("mine", "--port", "1"), ["mine", "--port", "1"]),
    (("other.py",), ["other.py"]),
)


def test_what_is_asked_alone_is_what_the_command_line_knows() -> None:
    """The launcher has a list of its own, as it imports nothing."""
    known = ["--list", "--version", *(f"--{name}" for name in cli.DOCUMENTS)]
    assert sorted(kuwa_min.launch.DOCUMENTS) == sorted(known)


def test_a_packed_executor_needs_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options may come first, as behind the source itself; documents come alone."""
    for words, expected in NAMED:
        for target, result in ((PACKED, expected), ({"serves": ["mine"]}, [*words])):
            monkeypatch.setattr(sys, "argv", ["file", *words])
            kuwa_min.launch.name_packed_executor(target)
            assert sys.argv == ["file", *result], words
